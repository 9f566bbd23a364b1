"""Builds the optional C twins that exist in the tree; everything else is in setup.cfg.

An extension that does not compile is left out (`optional`): a missing compiler costs speed, never
function.
"""

from pathlib import Path

from setuptools import Extension, setup

ROOMS = ("protocols/_native", "accessgw/transports/_native")
headers = [str(header) for header in sorted(Path("protocols/_native").glob("*.h"))]

setup(
    ext_modules=[
        Extension(
            str(source.with_suffix("")).replace("/", "."),
            [str(source)],
            depends=headers,
            extra_compile_args=["-O2"],
            optional=True,
        )
        for room in ROOMS
        for source in sorted(Path(room).glob("*.c"))
    ]
)
