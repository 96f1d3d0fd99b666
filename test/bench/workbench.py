"""The server that all contenders of a run share, its streams, and what is read from them afterwards."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import nats
from nats.aio.client import Client

from runtime.bus.base import ConsumerConfig, StreamConfig
from runtime.bus.embedded import EmbeddedServer, find_binary
from runtime.bus.nats import NatsBus
from runtime.errors import BusError
from runtime.spec import names
from test.bench.processes import BenchError, Child, Stage

# Seconds without a new output after which a measurement has failed, and between two looks.
STALL_S = 20.0
LOOK_S = 0.05
# Seconds until the last acks have to be at the server.
SETTLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Flow:
    """What went through a chain: messages per second by the server's clock, and processor time per message."""

    rate: float
    cpu_us: float | None


class Workbench:
    """One nats-server with file storage in a temporary folder, and two connections to it.

    `bus` makes streams, consumers and messages the way a deployed workflow has them; `client` is plain nats-py.
    """

    def __init__(self, server: EmbeddedServer, folder: Path, bus: NatsBus, client: Client) -> None:
        self.server = server
        self.folder = folder
        self.bus = bus
        self.client = client
        self._runs = 0

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator["Workbench"]:
        with tempfile.TemporaryDirectory(prefix="krt-bench-") as name:
            server = EmbeddedServer(Path(name) / "nats", binary=find_binary())
            server.start_blocking()
            try:
                bus = await NatsBus.connect([server.url], name="bench")
                client = await nats.connect(server.url, pending_size=64 * 1024 * 1024)
                yield cls(server, Path(name), bus, client)
                await client.close()
                await bus.close()
            finally:
                server.stop_blocking()

    @property
    def server_version(self) -> str:
        version = self.client.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}"

    def next_run(self) -> int:
        """Return a number that no other run has, for names on the server."""
        self._runs += 1
        return self._runs

    @asynccontextmanager
    async def chain(self, length: int, *, pulled: bool = True) -> AsyncIterator[list[Stage]]:
        """Make a stream for `length` stages; it is deleted afterwards. pulled: with a durable pull consumer each."""
        stream = names.stream("bench", "v1", f"run{self.next_run()}")
        stages = self._stages(stream, length)
        subjects = tuple(names.stream_subjects(stream))
        await self.bus.ensure_stream(StreamConfig(name=stream, subjects=subjects))
        dead_letters = names.dead_letter_stream(stream)
        await self.bus.ensure_stream(StreamConfig(name=dead_letters, subjects=(f"{dead_letters}.>",)))
        for stage in stages if pulled else []:
            config = ConsumerConfig(stream=stream, durable=stage.durable, filter_subjects=(stage.source,))
            await self.bus.ensure_consumer(config)
        try:
            yield stages
        finally:
            await self.client.jetstream().delete_stream(stream)
            await self.client.jetstream().delete_stream(dead_letters)

    def _stages(self, stream: str, length: int) -> list[Stage]:
        sources = [names.ENTRYPOINT, *(f"node{number}" for number in range(1, length))]
        return [
            Stage(
                server=self.server.url,
                stream=stream,
                node=f"node{number}",
                durable=names.durable(f"node{number}", [source]),
                source=names.node_subject(stream, source),
                target=names.node_subject(stream, f"node{number}"),
                is_last=number == length,
            )
            for number, source in enumerate(sources, start=1)
        ]

    async def preload(self, stage: Stage, body: bytes, messages: int) -> None:
        """Store `messages` copies of `body` for the first stage."""
        errors: list[BusError] = []

        def confirm(error: BusError | None) -> None:
            if error is not None:
                errors.append(error)

        publisher = self.bus.publisher(stage.stream)
        for number in range(messages):
            await publisher.publish(stage.source, body, message_id=f"in.{number}", confirm=confirm)
        await publisher.flush()
        await publisher.close()
        if errors:
            raise BenchError(f"{len(errors)} of {messages} messages could not be stored: {errors[0]}")

    async def follow(self, stages: Sequence[Stage], children: Sequence[Child], messages: int) -> Flow:
        """Wait until every message has left the last stage; return how fast it went.

        Raises BenchError when nothing moves any more, and when a message was lost, repeated or left unacknowledged.
        """
        last = stages[-1]
        first_outputs, first_cpu_s = 0, 0.0
        async for outputs in self.count_outputs(last, children, messages):
            if outputs and not first_outputs:
                first_outputs, first_cpu_s = outputs, sum(child.cpu_s() for child in children)
        cpu_s = sum(child.cpu_s() for child in children) - first_cpu_s
        seen = messages - first_outputs
        await self._check_settled(last.stream)
        return Flow(await self._rate(last, messages), cpu_s / seen * 1e6 if seen else None)

    async def count_outputs(self, last: Stage, children: Sequence[Child], messages: int) -> AsyncIterator[int]:
        """Yield how many outputs are stored, every `LOOK_S`, until all are. Raises BenchError as `follow` does."""
        loop = asyncio.get_running_loop()
        outputs, moved_s = 0, loop.time()
        while outputs < messages:
            await asyncio.sleep(LOOK_S)
            now = (await self.bus.stream_state(last.stream)).subjects.get(last.target, 0)
            if now > outputs:
                outputs, moved_s = now, loop.time()
            elif loop.time() - moved_s > STALL_S:
                tails = "\n".join(child.log_tail() for child in children)
                raise BenchError(f"stuck at {outputs} of {messages} messages of {last.target}:\n{tails}")
            for child in children:
                child.check_alive()
            yield outputs
        if outputs > messages:
            raise BenchError(f"{messages} messages went in, {outputs} came out of {last.target}")

    async def stored_s(self, stream: str, sequence: int) -> float:
        """Return when the server stored the message, in seconds since 1970."""
        return (await self.bus.get_message(stream, sequence)).time_ns / 1e9

    async def _rate(self, last: Stage, messages: int) -> float:
        jetstream = self.client.jetstream()
        first = await jetstream.get_msg(last.stream, seq=1, subject=last.target, next=True)
        final = await jetstream.get_last_msg(last.stream, last.target)
        if first.time is None or final.time is None:
            raise BenchError("the server does not tell when it stored a message")
        return float((messages - 1) / (final.time - first.time).total_seconds())

    async def _check_settled(self, stream: str) -> None:
        give_up_s = asyncio.get_running_loop().time() + SETTLE_S
        while open_consumers := [
            state for state in await self.bus.consumer_states(stream) if state.pending or state.ack_pending
        ]:
            if asyncio.get_running_loop().time() > give_up_s:
                raise BenchError(f"not every message of {stream} was acknowledged: {open_consumers}")
            await asyncio.sleep(LOOK_S)
