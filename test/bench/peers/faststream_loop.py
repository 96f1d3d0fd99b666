"""FastStream with its defaults: a durable pull subscriber and a publisher, acknowledged after the publish.

The handler takes and returns a dict, as our node's does. uvloop is what FastStream's own command line uses.
"""

import asyncio
from typing import Any

from faststream import FastStream
from faststream.nats import JStream, NatsBroker, PullSub

from test.bench.peers.place import Place, run


async def serve(place: Place) -> None:
    broker = NatsBroker(place.server, logger=None)
    # The stream is there already; a declared one would be given FastStream's own configuration.
    stream = JStream(place.stream, declare=False)

    @broker.subscriber(place.source, stream=stream, durable=place.durable, pull_sub=PullSub())  # type: ignore[untyped-decorator]  # mypy does not follow into faststream
    @broker.publisher(place.target, stream=place.stream)  # type: ignore[untyped-decorator]
    async def echo(data: dict[str, Any]) -> dict[str, Any]:
        return data

    app = FastStream(broker, logger=None)
    await app.start()
    place.say_ready()
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(serve)
