"""amqtt's broker as it comes, but for its logging of every connection.

usage: python -m loadtest.bench.amqtt_peer PORT
"""

from __future__ import annotations

import asyncio
import logging
import sys

from amqtt.broker import Broker


async def main() -> None:
    logging.basicConfig(level=logging.ERROR)
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{sys.argv[1]}", "max_connections": 50_000}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
