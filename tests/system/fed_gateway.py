"""A gateway whose dictionaries are fed with bodies: `python fed_gateway.py CONFIG BODIES`.

It is the gateway that `twistd accessgw` makes, but for the bodies that are offered as samples at its start, as
calls of devices would be.
"""

from __future__ import annotations

import random
import sys

from twisted.application import app, service

from accessgw.service import Options, makeService


def main(config: str, bodies: int) -> None:
    options = Options()
    options.parseOptions(["--config", config])
    gateway = makeService(options)
    source = random.Random(1)
    for number in range(bodies):
        body = b'{"order": "%016x", "currency": "CNY", "merchant": "%s", "status": "paid", "channel": "mobile"}' % (
            source.getrandbits(64),
            source.choice([b"Corner Shop", b"Noodle House"]),
        )
        gateway.rooms.dictionaries.observe("wallet", "q", "orders.create", f"user{number % 100}", body)
    application = service.Application("accessgw")
    gateway.setServiceParent(service.IServiceCollection(application))
    app.startApplication(application, None)
    from twisted.internet import reactor
    from twisted.python import log

    log.startLogging(sys.stderr, setStdout=False)
    reactor.addSystemEventTrigger("before", "shutdown", gateway.stopService)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
