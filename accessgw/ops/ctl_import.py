"""accessgwctl import FILE: a configuration of mosquitto becomes one of ours."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from accessgw.ops.ctl_session import FAILED, OK, Session, complain
from accessgw.ops.ctl_view import printable, trouble

INCOMPLETE = 3
"""Exit code when something was left out."""


def _run(session: Session, options: argparse.Namespace) -> None:
    from accessgw.ops.import_mosquitto import convert
    from accessgw.ops.mosquitto_conf import ImportFailed, read

    try:
        imported = convert(read(options.file), os.path.basename(options.file))
        if options.output is None or options.output == "-":
            sys.stdout.write(imported.toml)
        else:
            with open(options.output, "w" if options.force else "x", encoding="utf-8") as output:
                output.write(imported.toml)
    except ImportFailed as error:
        session.code = complain(str(error), FAILED)
        return
    except FileExistsError:
        session.code = complain(f"--output: {options.output} is there already; --force writes over it", FAILED)
        return
    except OSError as error:
        session.code = complain(f"--output: {trouble(error)}", FAILED)
        return
    for note in imported.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    for loss in imported.losses:
        print(f"not carried over: {printable(str(loss))}", file=sys.stderr)
    session.code = INCOMPLETE if imported.losses else OK


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `import` to the subparsers of accessgwctl."""
    one = commands.add_parser(
        "import",
        parents=[common],
        help="turn a mosquitto.conf into a configuration of the gateway",
        description="Turn a mosquitto.conf into a configuration of the gateway; needs no running gateway.",
        epilog="Exit codes: 0 all was carried over, 1 it could not be read, 3 something was left out (standard error"
        " and the end of the output say what).",
    )
    one.add_argument("file", metavar="mosquitto.conf")
    one.add_argument("-o", "--output", metavar="accessgw.toml", help="write here; standard output when left out")
    one.add_argument("--force", action="store_true", help="write over an existing file")
    one.set_defaults(run=_run)
