"""KRE's way of storing documents: a writer that takes one request after the other, each one insert and one answer.

Arguments: server, subject, URI of MongoDB, and the descriptor that is written to once it takes requests. In the order
that its subscription gives them, requests are handled by one blocking call each, for there is nothing else to do.
"""

import asyncio
import json
import os
import sys

import nats
import uvloop
from nats.aio.msg import Msg
from pymongo import MongoClient

from test.bench.peers.place import until_terminated

SUCCESS = b'{"success":true}'


async def serve(server: str, subject: str, uri: str, ready_fd: int) -> None:
    database = MongoClient[dict[str, object]](uri).get_database("data")
    client = await nats.connect(server)

    async def store(request: Msg) -> None:
        body = json.loads(request.data)
        database.get_collection(body["coll"]).insert_one(body["doc"])
        await request.respond(SUCCESS)

    await client.subscribe(subject, queue="writer", cb=store)
    await client.flush()
    os.write(ready_fd, b"ready\n")
    os.close(ready_fd)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_terminated(serve(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))))
