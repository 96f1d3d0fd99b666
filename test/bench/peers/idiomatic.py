"""nats-py as its documentation shows it: fetch a batch, publish it asynchronously, wait for the PubAcks, ack."""

import asyncio

import nats
import nats.errors

from test.bench.peers.place import Place, run

# Messages of one fetch, and the seconds it waits for the first.
BATCH = 500
FETCH_TIMEOUT_S = 5.0


async def serve(place: Place) -> None:
    client = await nats.connect(place.server)
    jetstream = client.jetstream()
    subscription = await jetstream.pull_subscribe_bind(durable=place.durable, stream=place.stream)
    place.say_ready()
    while True:
        try:
            messages = await subscription.fetch(BATCH, timeout=FETCH_TIMEOUT_S)
        except nats.errors.TimeoutError:
            continue
        await asyncio.gather(*[await jetstream.publish_async(place.target, message.data) for message in messages])
        for message in messages:
            await message.ack()


if __name__ == "__main__":
    run(serve)
