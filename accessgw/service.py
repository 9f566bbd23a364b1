"""`twistd accessgw`: its options, and the gateway as a Twisted service. The only module that imports the reactor.

What a start needs is imported where it is first needed, while the garbage collector rests: that makes some ten thousands
of objects and next to no garbage, which the collector would look for two hundred times.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from twisted.python import usage

if TYPE_CHECKING:
    from accessgw.gateway import Gateway
    from accessgw.model.settings import GatewaySettings
    from accessgw.prepared import Prepared


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """No automatic collections; what is there afterwards is put aside, until the gateway's own collector starts with a
    look at everything (ops.collector)."""
    ran = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if ran:
            gc.enable()


class Options(usage.Options):
    """What stands behind `twistd accessgw`."""

    synopsis = "[options]"
    longdesc = "Access gateway for phones and devices. SIGHUP reloads the configuration, SIGTERM drains and stops."
    optParameters = [["config", "c", "etc/accessgw.toml", "The configuration file."]]
    optFlags = [
        ["check", None, "Check the configuration and the files that it names, and exit."],
        ["print-config", None, "Print the effective configuration, secrets masked, and exit."],
    ]
    settings: GatewaySettings
    prepared: Prepared

    @collector_at_rest()
    def postOptions(self) -> None:
        """Load the file here: a bad one is told in plain lines, not with the help that UsageError prints."""
        from accessgw.config.errors import ConfigError
        from accessgw.config.load import load
        from accessgw.config.render import render
        from accessgw.crypto.openssl_defaults import load_openssl
        from accessgw.prepared import Prepared

        try:
            self.settings = load(self["config"])
            if any(listener.transport == "tls" for listener in self.settings.listeners):
                load_openssl()
            self.prepared = Prepared.of(self.settings)
            if self["check"]:
                from accessgw.file_check import file_problems

                if problems := list(file_problems(self.settings, time.time())):
                    raise ConfigError.of(problems)
        except ConfigError as error:
            print(error, file=sys.stderr)
            raise SystemExit(1) from None
        if self["print-config"]:
            print(render(self.settings), end="")
        if self["check"] or self["print-config"]:
            raise SystemExit(0)


@collector_at_rest()
def makeService(options: Options) -> Gateway:  # the name that twistd looks for
    """The gateway as a Twisted service; on the lean reactor, unless `twistd --reactor` has chosen one."""
    if "twisted.internet.reactor" not in sys.modules:
        with suppress(ImportError):  # no epoll on this system: whatever Twisted takes for the best
            from accessgw.transports.reactor import install

            install()
    from twisted.internet import reactor

    from accessgw.crypto.closed_memory import close_memory
    from accessgw.crypto.pem import CertificateError
    from accessgw.crypto.shared_file import SharedFileError
    from accessgw.crypto.signers.build import SignerUnusable
    from accessgw.gateway import Gateway
    from accessgw.model.words import trouble

    try:
        if any(listener.transport == "tls" for listener in options.settings.listeners):
            close_memory()
        return Gateway(options.settings, options.prepared, options["config"], reactor)
    except (CertificateError, SharedFileError, SignerUnusable, OSError) as error:
        print(f"accessgw: {trouble(error)}", file=sys.stderr)
        raise SystemExit(1) from None
