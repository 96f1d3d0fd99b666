"""The fastest loop that nats-py allows with our guarantee, and nothing else: what the message path is measured by.

Own pull requests over a core subscription with a callback, pipelined publish with a message id, one subscription for
all PubAcks, and the ack as a plain publish once the PubAck is in. No envelope, no handler, no retry, no reconnect.
"""

import asyncio
import json

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from test.bench.peers.place import Place, run

# Messages of one pull request; the next one goes out when half of it has arrived.
REQUEST = 1_000
# Bytes that the client may hold back before it writes.
PENDING_BYTES = 64 * 1024 * 1024
NEXT_REQUEST = json.dumps({"batch": REQUEST, "expires": int(30e9), "idle_heartbeat": int(5e9)}).encode()


class LeanLoop:
    """One stage: take, publish, ack."""

    def __init__(self, client: Client, place: Place) -> None:
        self._client = client
        self._place = place
        self._inbox = client.new_inbox()
        self._pub_acks = f"{client.new_inbox()}."
        self._next_subject = f"$JS.API.CONSUMER.MSG.NEXT.{place.stream}.{place.durable}"
        # PubAck's number -> the reply subject of the message that waits for it.
        self._unconfirmed: dict[int, str] = {}
        self._number = 0
        self._asked = 0

    async def start(self) -> None:
        await self._client.subscribe(
            f"{self._pub_acks}*", cb=self._on_pub_ack, pending_msgs_limit=0, pending_bytes_limit=0
        )
        await self._client.subscribe(self._inbox, cb=self._on_message, pending_msgs_limit=0, pending_bytes_limit=0)
        await self._ask()

    async def _ask(self) -> None:
        self._asked += REQUEST
        await self._client.publish(self._next_subject, NEXT_REQUEST, self._inbox)

    async def _on_message(self, message: Msg) -> None:
        if message.subject == self._inbox:
            await self._on_status(message)
            return
        self._asked -= 1
        if self._asked == REQUEST // 2:
            await self._ask()
        self._number = number = self._number + 1
        self._unconfirmed[number] = message.reply
        headers = {"Nats-Msg-Id": f"{self._place.durable}.{message.reply.split('.')[5]}.0"}
        await self._client.publish(self._place.target, message.data, f"{self._pub_acks}{number}", headers)

    async def _on_status(self, message: Msg) -> None:
        """Ask again when the open requests are over; a heartbeat says nothing here."""
        if (message.headers or {}).get("Status", "") != "100":
            self._asked = 0
            await self._ask()

    async def _on_pub_ack(self, answer: Msg) -> None:
        if b'"error"' in answer.data or not answer.data:
            raise RuntimeError(f"the stream refuses: {answer.data!r}")
        reply = self._unconfirmed.pop(int(answer.subject[len(self._pub_acks) :]))
        await self._client.publish(reply, b"+ACK")


async def serve(place: Place) -> None:
    client = await nats.connect(place.server, pending_size=PENDING_BYTES, skip_subject_validation=True)
    await LeanLoop(client, place).start()
    await client.flush()
    place.say_ready()
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(serve)
