"""Hand-shakes in memory with a key in a TPM, in a process of its own: a provider stays loaded to the end.

python -m tests.protocols.tls.tpm_handshakes CHAIN KEY CA
"""

from __future__ import annotations

import sys
from pathlib import Path

from protocols.tls.server_context import ServerCertificate
from tests.protocols.tls.provider_links import shake_hands


def main(chain, key, authority):
    certificate = ServerCertificate(Path(chain).read_bytes(), Path(key).read_bytes())
    for version in ("TLSv1.3", "TLSv1.2"):
        shake_hands(certificate, "tpm2", version, Path(authority).read_bytes())
        print(version)


if __name__ == "__main__":
    main(*sys.argv[1:])
