"""The secrets of every connection in a file, for a developer's network analyser. Never for production."""

from __future__ import annotations

import os
import stat

from accessgw.crypto.pem import CertificateError


class KeyLogFile:
    """Appends lines of the key log format (as Wireshark reads it). Called from the threads of hand-shakes."""

    def __init__(self, path: str) -> None:
        """Opens the file, made for its user alone. CertificateError when it cannot be, or when others may read it."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise CertificateError(path, error.strerror or "cannot be opened") from None
        mode = os.fstat(self._descriptor).st_mode
        if not stat.S_ISREG(mode) or stat.S_IMODE(mode) & 0o077:
            os.close(self._descriptor)
            raise CertificateError(
                path, f"holds the keys of all traffic: expected a file of mode 0600, got {stat.S_IMODE(mode):04o}"
            )

    def __call__(self, line: bytes) -> None:
        # One write: lines of several threads and processes do not mix.
        os.write(self._descriptor, line + b"\n")

    def close(self) -> None:
        """Nothing is written any more, nor into what gets the descriptor's number next."""
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
