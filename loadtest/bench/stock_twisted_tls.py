"""The peer "stock Twisted" of bench_tls: an echo by Protocol, Factory and listenSSL, as the manual shows them.

usage: python -m loadtest.bench.stock_twisted_tls CHAIN KEY   prints "port N"; ends with SIGTERM.
"""

from __future__ import annotations

import sys
from pathlib import Path

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import PrivateCertificate


class Echo(Protocol):
    """One connection."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


def main() -> None:
    # The process is this peer's alone, and the global reactor is how the manual shows it; only main() may install one.
    from twisted.internet import epollreactor

    epollreactor.install()
    from twisted.internet import reactor

    pem = b"".join(Path(name).read_bytes() for name in sys.argv[1:3])
    options = PrivateCertificate.loadPEM(pem).options()
    port = reactor.listenSSL(0, Factory.forProtocol(Echo), options, backlog=4096, interface="127.0.0.1")
    print(f"port {port.getHost().port}", flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
