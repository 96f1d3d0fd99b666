"""One hop in plain nats-py: a JetStream push callback, an awaited publish, an ack. Three of them make the chain.

A message's first line is the inbox of its caller; the last hop sends the rest there, after its own publish.
"""

import asyncio

import nats
from nats.aio.msg import Msg

from test.bench.peers.place import Place, run


async def serve(place: Place) -> None:
    client = await nats.connect(place.server)
    jetstream = client.jetstream()

    async def forward(message: Msg) -> None:
        await jetstream.publish(place.target, message.data)
        if place.replies:
            inbox, _, body = message.data.partition(b"\n")
            await client.publish(inbox.decode(), body)
        await message.ack()

    await jetstream.subscribe(place.source, stream=place.stream, durable=place.durable, cb=forward, manual_ack=True)
    await client.flush()
    place.say_ready()
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(serve)
