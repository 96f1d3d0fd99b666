"""One soak: a workflow as `krt run` starts it, a feeder, a counter, and somebody who kills."""

import asyncio
import logging
import math
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime import wire
from runtime.bus.base import Confirmation, ConsumerConfig
from runtime.bus.embedded import EmbeddedServer, find_binary
from runtime.bus.nats import NatsBus
from runtime.deadletter import HEADER, DeadLetter
from runtime.deploy.plan import Target, plan
from runtime.deploy.process import RestartPolicy
from runtime.deploy.supervisor import Supervisor
from runtime.deploy.wiring import stream_of
from runtime.errors import NotFoundError
from runtime.message import Message, MessageType
from runtime.payload import decode_value, encode_value
from runtime.spec import names
from runtime.spec.load import load
from runtime.stores.open import open_documents
from test.soak.attacks import Attacks
from test.soak.ledger import Ledger, Line
from test.soak.pace import Pace

log = logging.getLogger(__name__)

FLOW = Path(__file__).parent / "flow" / "workflow.yaml"
# Messages fed and not ended: enough for every replica to be busy, few enough for all to be inside the dedup window.
BACKLOG = 20_000
# Messages that are sent before their PubAcks are waited for.
CHUNK = 500
# Seconds without any output after which what is missing counts as lost: above the ack wait and a crash loop's pause.
SILENCE_S = 90.0
# Being killed is no fault of a process.
POLICY = RestartPolicy(first_delay_s=0.1, max_delay_s=0.5, healthy_after_s=1.0, crash_loop_exits=1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a soak found. recovery_s: after each kill of a node, seconds until the rate was what it had been."""

    messages: int
    seconds: float
    lines: list[Line]
    attacks: dict[str, int]
    recovery_s: list[float] = field(default_factory=list)

    @property
    def balances(self) -> bool:
        return all(line.balances for line in self.lines)


async def soak(
    messages: int, folder: Path, *, every_s: float, seed: int, limit: int = sys.maxsize, rate: float = math.inf
) -> Outcome:
    """Send `messages` through the workflow under attacks `every_s` seconds apart, and count what comes out.

    limit: how many attacks there are at most. rate: messages a second that are sent at most.
    folder: an empty one, for the server's store, the documents and the processes' log.
    """
    server = EmbeddedServer(folder / "nats", binary=find_binary(""))
    await server.start()
    try:
        return await _Soak(messages, folder, server, rate).run(every_s=every_s, seed=seed, limit=limit)
    finally:
        await server.stop()


class _Soak:
    def __init__(self, messages: int, folder: Path, server: EmbeddedServer, rate: float) -> None:
        self._messages = messages
        self._rate = rate
        self._server = server
        self._workflow = load(FLOW)
        self._stream = stream_of(self._workflow, "local")
        self._documents = f"sqlite:///{folder / 'data.db'}"
        self._log = folder / "processes.log"
        self._ledger = Ledger(messages)
        self._pace = Pace()
        self._room = asyncio.Event()

    async def run(self, *, every_s: float, seed: int, limit: int) -> Outcome:
        loop = asyncio.get_running_loop()
        async with self._processes() as supervisor:
            attacks = Attacks(supervisor, self._server, every_s=every_s, seed=seed, limit=limit)
            attacks.on_attack = self._note_attack
            bus = await NatsBus.connect([self._server.url], name="soak")
            attacking = asyncio.create_task(attacks.run(), name="attacks")
            started_s = loop.time()
            try:
                await self._feed_and_count(bus)
                seconds = loop.time() - started_s
            finally:
                attacking.cancel()
                await asyncio.gather(attacking, return_exceptions=True)
            try:
                lines = await self._lines(bus)
            finally:
                await bus.close()
        return Outcome(
            messages=self._messages,
            seconds=seconds,
            lines=lines,
            attacks=dict(attacks.made),
            recovery_s=self._pace.recoveries_s(),
        )

    @asynccontextmanager
    async def _processes(self) -> AsyncIterator[Supervisor]:
        target = Target(
            nats_servers=(self._server.url,),
            mongo_uri=self._documents,
            influx_uri=self._documents,
            base_path=str(FLOW.parent),
            log_level="WARN",
        )
        with self._log.open("a") as file:
            async with Supervisor(
                on_line=lambda name, line: print(name, line, file=file),
                command=(sys.executable, "-m", "runtime"),
                policy=POLICY,
            ) as supervisor:
                await supervisor.start(plan(self._workflow, target))
                yield supervisor

    # --- feeding and counting ---

    async def _feed_and_count(self, bus: NatsBus) -> None:
        async with asyncio.TaskGroup() as group:
            counting = group.create_task(self._count(bus), name="count")
            group.create_task(self._feed(bus), name="feed")
            pacing = group.create_task(self._pace.watch(lambda: self._ledger.ended), name="pace")
            await counting
            pacing.cancel()

    async def _feed(self, bus: NatsBus) -> None:
        publisher = bus.publisher(self._stream)
        subject = names.entrypoint_subject(self._stream)
        unconfirmed: list[Confirmation] = []
        ends_per_message = self._ledger.expected_ends / self._messages
        started_s = asyncio.get_running_loop().time()
        for number in range(self._messages):
            while number - self._ledger.ended / ends_per_message > BACKLOG:
                self._room.clear()
                await self._room.wait()
            message = Message(
                request_id=f"r{number}", payload=encode_value({"number": number}), from_node=names.ENTRYPOINT
            )
            stored = Confirmation()
            await publisher.publish(subject, wire.encode(message), message_id=f"in.{number}", confirm=stored)
            unconfirmed.append(stored)
            if len(unconfirmed) >= CHUNK:
                await asyncio.sleep(started_s + number / self._rate - asyncio.get_running_loop().time())
                await asyncio.gather(*map(_confirmed, unconfirmed))
                unconfirmed.clear()
        await asyncio.gather(*map(_confirmed, unconfirmed))
        await publisher.close()

    async def _count(self, bus: NatsBus) -> None:
        """Read the output until every message has ended, or nothing comes any more."""
        config = ConsumerConfig(
            stream=self._stream, durable="soak", filter_subjects=(names.node_subject(self._stream, "score"),)
        )
        reader = bus.reader(config, create=True)
        reader.prefetch = 1000
        await reader.start()
        try:
            while self._ledger.ended < self._ledger.expected_ends:
                async with asyncio.timeout(SILENCE_S):
                    delivery = await reader.take()
                reader.ack(delivery)
                if self._ledger.is_new(delivery.sequence):
                    self._note(wire.decode(delivery.data))
        except TimeoutError:
            log.error("nothing came out for %g s", SILENCE_S)
        await reader.close()

    def _note(self, message: Message) -> None:
        self._room.set()
        if message.type is MessageType.ERROR:
            self._ledger.note_error(int(message.request_id.removeprefix("r")))
        else:
            value: Any = decode_value(message.payload)
            self._ledger.note_output(value["number"], value["part"])

    def _note_attack(self, name: str) -> None:
        log.info("%s messages ended; now: %s", f"{self._ledger.ended:,}", name)
        self._pace.note_attack(kills_node=name == "node killed")

    # --- the books ---

    async def _lines(self, bus: NatsBus) -> list[Line]:
        store = open_documents(self._documents)
        try:
            documents = await store.find("numbers", {"number": {"$gte": 0}})
        finally:
            await store.close()
        return [
            self._ledger.outputs(),
            self._ledger.errors(),
            self._ledger.documents(document["number"] for document in documents),
            self._ledger.dead_letters(await self._dead_letters(bus)),
        ]

    async def _dead_letters(self, bus: NatsBus) -> list[int]:
        stream = names.dead_letter_stream(self._stream)
        state = await bus.stream_state(stream)
        found = []
        for sequence in range(state.first_sequence, state.last_sequence + 1):
            try:
                message = await bus.get_message(stream, sequence)
            except NotFoundError:
                continue
            letter = DeadLetter.from_header(message.headers[HEADER])
            found.append(int(letter.request_id.removeprefix("r")))
        return found


async def _confirmed(stored: Confirmation) -> None:
    await stored
