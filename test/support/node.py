"""A node under test: the parts of a runner's process on a bus in memory, with the handler given as text.

node = NodeUnderTest(tmp_path, '''
    async def handler(ctx, data: dict):
        return {"sum": data["a"] + data["b"]}
''')
await node.start()
await node.send({"a": 1, "b": 2})
await node.settled()
assert node.outputs() == [{"sum": 3}]
"""

import asyncio
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from runtime import wire
from runtime.bus.base import Confirmation, ConsumerConfig, ConsumerState, CoreMessage, StoredMessage, StreamConfig
from runtime.bus.memory import MemoryBroker, MemoryBus
from runtime.clock import FakeClock, settle
from runtime.deadletter import HEADER, DeadLetter
from runtime.message import Message, MessageType
from runtime.node.kinds import prepare_handler
from runtime.node.process import NodeProcess, Stores, read_spec
from runtime.payload import decode_value, encode_value
from runtime.settings import NodeSettings, read_node
from runtime.spec import names
from runtime.spec.node import NodeSpec, Partitions, RetryPolicy
from runtime.stores.open import open_documents, open_points
from runtime.stores.writer import Writer

STREAM = "prod_v1_greeter"
NODE = "work"
DURABLE = "work__entrypoint"
ENTRYPOINT = names.entrypoint_subject(STREAM)
OUTPUT = names.node_subject(STREAM, NODE)
DEAD_LETTERS = names.dead_letter_stream(STREAM)

# Real seconds after which something that has to happen is taken for lost.
PATIENCE_S = 5.0

# Without jitter, so that a test can say when a message comes again.
RETRY = RetryPolicy(attempts=3, first_s=1.0, factor=2.0, max_s=60.0, jitter=0.0)


def node_spec(**changes: Any) -> NodeSpec:
    """Return the spec of a planned node, with short and exact retries unless changed."""
    return NodeSpec(**{"durable": DURABLE, "retry": RETRY, "timeout_s": 10.0, **changes})


def environment(folder: Path, **changes: str) -> dict[str, str]:
    """Return the variables of a runner whose handler and stores lie in `folder`; names without KRT_."""
    variables = {
        "WORKFLOW_NAME": "greeter",
        "VERSION_ID": "63a1f5",
        "VERSION": "v1",
        "NODE_NAME": NODE,
        "NATS_SERVER": "nats://127.0.0.1:4222",
        "NATS_INPUT": ENTRYPOINT,
        "NATS_OUTPUT": OUTPUT,
        "NATS_STREAM": STREAM,
        "NATS_MONGO_WRITER": "mongo_writer",
        "BASE_PATH": str(folder),
        "HANDLER_PATH": "handler.py",
        "MONGO_URI": f"sqlite:///{folder / 'documents.db'}",
        "INFLUX_URI": f"sqlite:///{folder / 'points.db'}",
        "SHUTDOWN_GRACE": "1",
    }
    return {f"KRT_{name}": value for name, value in {**variables, **changes}.items()}


def write_handler(folder: Path, source: str, name: str = "handler.py") -> Path:
    """Write a handler module; returns its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    return path


def consumers_of(spec: NodeSpec, inputs: tuple[str, ...] = (ENTRYPOINT,), **changes: Any) -> list[ConsumerConfig]:
    """Return what the manager makes for a node: for an ordered one a consumer per partition, for a bare one none."""
    if not spec.durable:
        return []
    if spec.partitions is not None:
        return [
            ConsumerConfig(
                stream=STREAM,
                durable=names.partition_durable(spec.durable, number),
                filter_subjects=names.partition_inputs(inputs, number),
                max_ack_pending=1,
                **changes,
            )
            for number in range(spec.partitions)
        ]
    return [ConsumerConfig(stream=STREAM, durable=spec.durable, filter_subjects=inputs, **changes)]


def buckets_of(spec: NodeSpec) -> list[str]:
    """Return the buckets in which a planned node keeps its states, the sets that it joins, or its runs."""
    kept = [part.bucket for part in (spec.state, spec.join) if part]
    return [*kept, names.runs_bucket(STREAM)] if spec.batch else kept


class NodeUnderTest:
    """One runner with its broker, its streams and a caller that reads the replies."""

    def __init__(
        self,
        folder: Path,
        source: str,
        *,
        spec: NodeSpec | None = None,
        bare: bool = False,
        max_bytes: int = 0,
        max_payload_bytes: int = 1024 * 1024,
        variables: dict[str, str] | None = None,
        broker: MemoryBroker | None = None,
    ) -> None:
        write_handler(folder, source)
        self.clock = broker.clock if broker and isinstance(broker.clock, FakeClock) else FakeClock()
        self.broker = broker or MemoryBroker(self.clock, max_payload_bytes=max_payload_bytes)
        self.bus: MemoryBus = self.broker.connect()
        self.outside: MemoryBus = self.broker.connect()
        self.replies: list[Message] = []
        self._max_bytes = max_bytes
        self.settings: NodeSettings = read_node(environment(folder, **(variables or {})))
        if not bare:
            spec_json = (spec or node_spec()).model_dump_json()
            self.settings = read_node(environment(folder, NODE_SPEC=spec_json, **(variables or {})))
        self._folder = folder
        self._publisher = self.outside.publisher(STREAM)
        # The handler's module, whose globals a test reads.
        self.module: ModuleType = ModuleType("not loaded")
        self._process: NodeProcess | None = None
        self._writer_task: asyncio.Task[None] | None = None

    @property
    def process(self) -> NodeProcess:
        assert self._process is not None, "start first"
        return self._process

    async def start(self) -> "NodeUnderTest":
        await self.prepare()
        handler = prepare_handler(self.settings, read_spec(self.settings))(self.bus, self.clock)
        self.module = handler.module
        stores = Stores(
            open_documents(self.settings.mongo_uri, self.settings.mongo_database), open_points(self.settings.influx_uri)
        )
        self._process = NodeProcess(self.settings, self.bus, stores, handler, self.clock)
        await self._process.start()
        await settle()
        return self

    async def prepare(self) -> None:
        """Make what the manager makes: streams, the consumer and the inbox of a caller."""
        atomic = read_spec(self.settings).atomic
        stream = StreamConfig(name=STREAM, subjects=(f"{STREAM}.>",), max_bytes=self._max_bytes, atomic=atomic)
        await self.outside.ensure_stream(stream)
        await self.outside.ensure_stream(StreamConfig(name=DEAD_LETTERS, subjects=(f"{DEAD_LETTERS}.>",)))
        for consumer in consumers_of(read_spec(self.settings), self.settings.inputs):
            await self.outside.ensure_consumer(consumer)
        spec = read_spec(self.settings)
        for bucket in buckets_of(spec):
            await self.outside.key_value(bucket, create=True)
        await self.outside.subscribe("caller", self._on_reply)

    async def run_writer(self) -> None:
        """Serve `ctx.db.save` from the node's own SQLite file."""
        writer = Writer(open_documents(self.settings.mongo_uri, self.settings.mongo_database))
        self._writer_task = asyncio.create_task(writer.run(), name="writer")
        answers: set[asyncio.Task[None]] = set()

        async def answer(request: CoreMessage) -> None:
            body = await writer.handle(request.data, request.headers.get(names.DOCUMENT_ID_HEADER, ""))
            self.outside.send(request.reply, body)

        def on_request(request: CoreMessage) -> None:
            task = asyncio.create_task(answer(request))
            answers.add(task)
            task.add_done_callback(answers.discard)

        await self.outside.subscribe(self.settings.writer_subject, on_request, queue=names.WRITER_QUEUE)

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()
            self._process = None
        if self._writer_task is not None:
            self._writer_task.cancel()
            await asyncio.gather(self._writer_task, return_exceptions=True)
        self.bus.kill()
        self.outside.kill()

    # --- the caller's side ---

    async def send(self, value: Any = None, **fields: Any) -> int:
        """Put a message into the entrypoint and return its sequence; `fields` are those of `Message`."""
        message = Message(**{"request_id": "r1", "payload": encode_value(value), "from_node": "entrypoint", **fields})
        return await self.send_bytes(wire.encode(message), subject=self._input_of(message))

    def _input_of(self, message: Message) -> str:
        partitions = read_spec(self.settings).partitions
        if partitions is None:
            return ENTRYPOINT
        return Partitions(count=partitions).subject(ENTRYPOINT, message.state_id, message.request_id)

    async def call(self, value: Any = None, **fields: Any) -> int:
        """Send a message whose answers go to `replies`."""
        return await self.send(value, reply_to="caller", **fields)

    async def send_bytes(self, data: bytes, headers: dict[str, str] | None = None, subject: str = ENTRYPOINT) -> int:
        before = (await self.outside.stream_state(STREAM)).last_sequence
        stored = Confirmation()
        await self._publisher.publish(subject, data, message_id=f"in.{before}", confirm=stored, headers=headers)
        await stored
        return (await self.outside.stream_state(STREAM)).last_sequence

    def _on_reply(self, message: CoreMessage) -> None:
        self.replies.append(wire.decode(message.data))

    # --- what became of it ---

    async def until(self, condition: Callable[[], bool], what: str = "") -> None:
        """Let loop and threads run until `condition` holds; time itself stands still."""
        give_up_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < give_up_s, f"did not happen within {PATIENCE_S:g} s: {what or condition}"
            await asyncio.sleep(0)
        await settle()

    async def settled(self, sequence: int | None = None) -> None:
        """Wait until `sequence` (by default everything in the entrypoint) needs no further delivery."""
        last = sequence or (await self.outside.stream_state(STREAM)).last_sequence
        await self.until(lambda: not self._open(last), f"settling up to {last}")

    async def released(self) -> None:
        """Wait until this process has nothing in hand: what it took is settled, for good or for later."""
        await self.until(lambda: self.in_hand == 0 and self.state.pending == 0, "giving back what is in hand")

    @property
    def in_hand(self) -> int:
        return sum(reader.in_hand for reader in self.process._readers)

    @property
    def state(self) -> Any:
        return self.states[0]

    @property
    def states(self) -> list[ConsumerState]:
        """How far each consumer of the node is: the one that it has, or those of its partitions."""
        consumers = self.broker.streams.stream(STREAM).consumers
        return [consumers[config.durable].state() for config in self.process._consumers()]

    def _open(self, last: int) -> bool:
        waiting = any(state.pending or state.ack_pending for state in self.states)
        return waiting or max(state.delivered for state in self.states) == 0 < last

    def stored(self, subject: str = OUTPUT) -> list[StoredMessage]:
        """Return what the stream holds on one subject, in its order."""
        stream = DEAD_LETTERS if subject.startswith(f"{DEAD_LETTERS}.") else STREAM
        messages = self.broker.streams.stream(stream)._messages.values()
        return [message for message in messages if message.subject == subject]

    def messages(self, subject: str = OUTPUT) -> list[Message]:
        return [wire.decode(stored.data) for stored in self.stored(subject)]

    def outputs(self, channel: str = "") -> list[Any]:
        """Return the values of the node's own outputs that are no errors."""
        subject = names.node_subject(STREAM, NODE, channel)
        return [decode_value(m.payload) for m in self.messages(subject) if m.type is not MessageType.ERROR]

    def errors(self) -> list[Message]:
        return [message for message in self.messages() if message.type is MessageType.ERROR]

    def dead_letters(self) -> list[tuple[StoredMessage, DeadLetter]]:
        found = self.stored(names.dead_letter_subject(STREAM, NODE))
        return [(message, DeadLetter.from_header(message.headers[HEADER])) for message in found]

    def the_dead_letter(self) -> DeadLetter:
        letters = self.dead_letters()
        assert len(letters) == 1, letters
        return letters[0][1]
