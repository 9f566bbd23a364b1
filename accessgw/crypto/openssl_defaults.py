"""Loads the OpenSSL in the package cryptography with openssl.cnf, which is beside this file: what its binding cannot set.

OpenSSL reads a file of settings once, when it is loaded. Where the operator names one (OPENSSL_CONF) it is that one.
"""

from __future__ import annotations

import hashlib
import os
import sys
from importlib import import_module
from pathlib import Path

FILE = Path(__file__).with_name("openssl.cnf")
_BINDING = "cryptography.hazmat.bindings._rust"
_VARIABLE = "OPENSSL_CONF"


def load_openssl() -> bool:
    """Whether it has read our file: not if something has imported cryptography before. While no other thread runs."""
    if _VARIABLE in os.environ or _BINDING in sys.modules:
        return False
    # Python's own OpenSSL, which a distribution may have built cryptography on, too, reads the system's file first.
    hashlib.sha256()
    os.environ[_VARIABLE] = str(FILE)
    try:
        import_module(_BINDING)
    finally:
        del os.environ[_VARIABLE]
    return True
