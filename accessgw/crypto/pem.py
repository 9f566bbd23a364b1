"""Files of certificates and keys, and what may be wrong with them."""

from __future__ import annotations


class CertificateError(Exception):
    """A certificate or key cannot be used; the message begins with the path of the file."""

    def __init__(self, path: str, message: str, setting: str = "") -> None:
        """`setting`: the last word of the one that names the file, where several may name the same."""
        super().__init__(f"{path}: {message}")
        self.path = path
        self.setting = setting


def read_file(path: str) -> bytes:
    """Raises CertificateError."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CertificateError(path, error.strerror or str(error)) from error
