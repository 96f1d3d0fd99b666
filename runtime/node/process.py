"""A node from its settings to its end: what its runner is made of, `init`, run, stop in order.

Start: open buckets, `init` to its end, bind the consumers. What is around it, from loading the handler to the exit
code, is in `run.py`.
"""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pydantic

from runtime.bus.base import Bus, ConsumerConfig, Reader
from runtime.bus.dead_letters import LetterClaims
from runtime.clock import Clock, SystemClock
from runtime.errors import SettingsError
from runtime.node import bare
from runtime.node.atomic import AtomicGate, AtomicOutputs
from runtime.node.batching import Batcher
from runtime.node.cancellations import Cancellations
from runtime.node.configuration import Configuration
from runtime.node.context import Context, Services
from runtime.node.dead_letters import DeadLetters, shown_of
from runtime.node.gate import Gate
from runtime.node.handler import HandlerFunction, LoadedHandler
from runtime.node.handler_types import told_schemas
from runtime.node.history import History
from runtime.node.join import Joins, parts_decoder, without_decoding
from runtime.node.link import WorkOn
from runtime.node.object_store import ObjectStore
from runtime.node.parts import Parts
from runtime.node.runner import Runner
from runtime.node.selection import Selection, Skips
from runtime.node.settle import describe
from runtime.node.state import StateClass, States
from runtime.node.versions import first_version, second_version
from runtime.node.work import Outputs
from runtime.settings import NodeSettings
from runtime.spec import names
from runtime.spec.batching import BatchingSpec
from runtime.spec.claims import letter_claims_store
from runtime.spec.edges import JsonSchema
from runtime.spec.node import DEFAULT_ASYNC_CONCURRENCY, NodeSpec
from runtime.stores.base import DocumentStore, PointStore
from runtime.stores.documents import DocumentClient
from runtime.threads import HandlerThreads

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores of one process."""

    documents: DocumentStore
    points: PointStore


class NodeProcess:
    """One runner with everything that it needs; made by `start`, ended by `stop`."""

    def __init__(
        self,
        settings: NodeSettings,
        bus: Bus,
        stores: Stores,
        handler: LoadedHandler,
        clock: Clock | None = None,
        reader: Reader | None = None,
    ) -> None:
        """reader: of a fused node, which has no consumer of its own."""
        self._settings = settings
        self._reader = reader
        self._bus = bus
        self._stores = stores
        self._handler = handler
        self._clock = clock or SystemClock()
        self.spec = read_spec(settings)
        self._publisher = bus.publisher(settings.stream, on_hold=self._on_hold)
        if settings.wire == "v1":
            self._version = first_version(settings, bus, self._publisher, stores.points, self._clock)
        else:
            channels = handler.channels if self._planned else None
            self._version = second_version(
                settings, self.spec, channels, bus, self._publisher, stores.points, self._clock
            )
        self.outputs = self._version.outputs
        self.metrics = self._version.metrics
        self._cancellations = Cancellations(self._clock, self.metrics.counts, self.spec.join)
        self._dead_letter_publisher = bus.publisher(names.dead_letter_stream(settings.stream))
        self._readers: list[Reader] = []
        self._runner: Runner | None = None
        self._services: Services | None = None
        self._threads: HandlerThreads | None = None
        self._batcher: Batcher | None = None
        self._initialised = False
        # What runs beside the messages, where the handler has that.
        self._beside: asyncio.Task[None] | None = None

    @property
    def settings(self) -> NodeSettings:
        return self._settings

    @property
    def nodes(self) -> Sequence["NodeProcess"]:
        """The nodes that run here; more than this one in a `fusion.FusedProcess`."""
        return (self,)

    @property
    def failed(self) -> asyncio.Future[None]:
        """Raises when an essential task of the runner has died."""
        assert self._runner is not None, "start first"
        return self._runner.failed

    @property
    def work_on(self) -> WorkOn:
        """See `Runner.work_on`."""
        assert self._runner is not None, "start first"
        return self._runner.work_on

    @property
    def gathering(self) -> int:
        """Messages in hand that no handler works on: they wait for others of their batch."""
        return 0 if self._batcher is None else self._batcher.waiting

    async def start(self) -> None:
        """Bind the stream, run `init` and begin to take messages."""
        settings, spec = self._settings, self.spec
        handles_many = self._handler.is_async and self._planned and spec.batching is None
        concurrency = spec.concurrency or spec.workers or (DEFAULT_ASYNC_CONCURRENCY if handles_many else 1)
        self._threads = HandlerThreads(concurrency, settings.node)
        consumers = self._consumers()
        if not self._planned:
            await bare.bind(self._bus, settings, consumers, self._clock)
        self._services = await self._make_services(self._version.outputs)
        handler = without_decoding(self._handler) if spec.join else self._handler
        if spec.batching is not None:
            self._batcher = self._open_batcher(spec.batching, self._threads, self._services, calls=concurrency)
            await self._batcher.open()
            handler, concurrency = self._batcher.handler, self._batcher.slots
            spec = spec.model_copy(update={"timeout_s": None})  # which is that of a call, not of waiting for one
        gate = await self._open_gate()
        if self._planned:
            await self._cancellations.follow(self._bus, settings.stream)
        await self._call(self._handler.init)
        self._initialised = True
        if self._handler.beside is not None:
            self._beside = asyncio.create_task(self._call(self._handler.beside), name=f"{settings.node} beside")
        if self._reader is None:
            self._readers = [self._bus.reader(config, create=not self._planned) for config in consumers]
        else:
            self._readers = [self._reader]
        self._runner = Runner(
            Parts(
                spec=spec,
                handler=handler,
                services=self._services,
                outputs=self._version.outputs,
                publisher=self._publisher,
                readers=self._readers,
                dead_letters=DeadLetters(
                    self._dead_letter_publisher,
                    stream=settings.stream,
                    node=settings.node,
                    handler_version=spec.handler_version or settings.version_id,
                    keep=spec.keep_dead_letters,
                    claims=self._letter_claims(),
                ),
                history=await self._open_history(),
                gate=gate,
                skips=self._skips(),
                metrics=self.metrics,
                threads=self._threads,
                concurrency=concurrency,
                error_subject=self._version.error_subject,
                forward_subject=settings.output,
                decode=self._version.decode,
                claims=self._version.claims,
                clock=self._clock,
            )
        )
        await self._runner.start()
        if self._beside is not None:
            self._beside.add_done_callback(self._on_beside_end)

    async def stop(self) -> None:
        """Drain within the grace time, run `teardown`, flush and close; the bus stays open. Every step is tried."""
        if self._batcher is not None:
            self._batcher.hurry()
        if self._runner is not None:
            await self._runner.stop(self._settings.grace_s)
        await self._cancellations.close()
        if self._beside is not None:
            self._beside.cancel()
            await asyncio.gather(self._beside, return_exceptions=True)
        try:
            if self._initialised:  # otherwise there is nothing to tear down
                await self._call(self._handler.teardown)
        except Exception as error:  # teardown is the user's; the rest has to be closed all the same
            log.error("teardown failed: %s", describe(error), exc_info=shown_of(error), extra={"action": "teardown"})
        await self._publisher.close()
        await self._dead_letter_publisher.close()
        await self._stores.points.close()
        self.metrics.report_dropped()
        await self._stores.documents.close()
        if self._threads is not None:
            self._threads.close()

    def told_schemas(self) -> dict[str, JsonSchema]:
        """Return the schemas of requests and answers, as far as this node takes or gives them."""
        settings = self._settings
        entrypoint = names.entrypoint_subject(settings.stream)
        takes_requests = self.spec.join is None and entrypoint in settings.inputs
        return told_schemas(self._handler, takes_requests=takes_requests, exit_channel=self.spec.exit_channel)

    @property
    def _planned(self) -> bool:
        return bool(self._settings.node_spec)

    def _on_beside_end(self, task: asyncio.Task[None]) -> None:
        """End the node: without it the messages would be handled wrongly."""
        if not task.cancelled() and not self.failed.done():
            self.failed.set_exception(task.exception() or RuntimeError(f"{task.get_name()} has ended"))

    def _on_hold(self, held: bool) -> None:
        for reader in self._readers:
            reader.hold(held)

    def _consumers(self) -> list[ConsumerConfig]:
        """Return the planned consumer with all its subjects; a bare runner has one consumer per input."""
        settings = self._settings
        if not self._planned:
            return bare.bare_consumers(settings)
        durable, partitions = self.spec.durable, self.spec.partitions
        if partitions is None:
            return [ConsumerConfig(stream=settings.stream, durable=durable, filter_subjects=settings.inputs)]
        return [
            ConsumerConfig(
                stream=settings.stream,
                durable=names.partition_durable(durable, number),
                filter_subjects=names.partition_inputs(settings.inputs, number),
                max_ack_pending=1,
            )
            for number in range(partitions)
        ]

    async def _make_services(self, outputs: Outputs) -> Services:
        settings = self._settings

        async def request(subject: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> bytes:
            return (await self._bus.request(subject, body, headers=headers, timeout_s=timeout_s)).data

        return Services(
            workflow=settings.workflow,
            version_id=settings.version_id,
            version=settings.version,
            node=settings.node,
            base_path=settings.base_path,
            clock=self._clock,
            loop=asyncio.get_running_loop(),
            documents=self._stores.documents,
            document_client=DocumentClient(
                request,
                settings.writer_subject,
                self._clock,
                id_header=names.DOCUMENT_ID_HEADER,
                limit_bytes=lambda: self._bus.max_payload_bytes,
            ),
            points=self._stores.points,
            configuration=await Configuration.open(self._bus, settings.configuration_buckets),
            object_store=await ObjectStore.open(self._bus, settings.object_store),
            outputs=outputs,
            logger=logging.getLogger(f"{settings.version}-{settings.node}"),
        )

    def _skips(self) -> Skips:
        if not self.spec.when:
            return self._cancellations
        return Selection(self.spec.when, self._cancellations, self.metrics.counts)

    def _letter_claims(self) -> LetterClaims | None:
        claims = self.spec.claims
        if claims is None:
            return None
        return LetterClaims(self._bus, claims.store, letter_claims_store(self._settings.stream), self._clock)

    async def _open_history(self) -> History:
        """Planned runners share their record of failed attempts, and of waits; a bare one has neither."""
        if not self._planned or (self.spec.retry.attempts == 1 and self.spec.dispatch is None):
            return History(self._settings.node, None)
        bucket = await self._bus.key_value(names.attempts_bucket(self._settings.stream), create=True)
        return History(self._settings.node, bucket)

    def _open_batcher(
        self, batching: BatchingSpec, threads: HandlerThreads, services: Services, *, calls: int
    ) -> Batcher:
        return Batcher(
            batching,
            self._handler,
            services=services,
            threads=threads,
            metrics=self.metrics,
            clock=self._clock,
            calls=calls,
            timeout_s=self.spec.timeout_s,
        )

    async def _open_gate(self) -> Gate | None:
        """Return what holds the node's states, sets or outputs, if any. Raises HandlerLoadError for a useless class."""
        state, join, outputs = self.spec.state, self.spec.join, self._version.outputs

        def limit_bytes() -> int:
            return self._bus.max_payload_bytes

        if state is not None:
            kind = StateClass.load(state.type, self._handler)
            return States(await self._bus.key_value(state.bucket), kind, outputs, limit_bytes)
        if join is not None:
            decode_parts = parts_decoder(join, self._handler)
            bucket = await self._bus.key_value(join.bucket)
            return Joins(bucket, join, decode_parts, self._version.decode, self._clock, limit_bytes)
        return AtomicGate(outputs) if isinstance(outputs, AtomicOutputs) else None

    async def _call(self, function: HandlerFunction | None) -> None:
        """Run `init` or `teardown`."""
        assert self._threads is not None and self._services is not None
        if function is None:
            return
        context = Context(self._services, None)
        if function.kind.is_async:
            await function.function(context)
        else:
            await self._threads.call(function.function, context)


def read_spec(settings: NodeSettings) -> NodeSpec:
    """Return the planned spec, or that of a bare runner. Raises SettingsError with every problem of it."""
    if not settings.node_spec:
        return bare.bare_spec(settings)
    try:
        return NodeSpec.model_validate(json.loads(settings.node_spec))
    except json.JSONDecodeError as error:
        raise SettingsError([f"the 'KRT_NODE_SPEC' env var is no JSON: {error}"]) from error
    except pydantic.ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise SettingsError([f"the 'KRT_NODE_SPEC' env var is wrong at {fault}" for fault in faults]) from error


def open_stores(settings: NodeSettings) -> Stores:
    """Open the stores of one node. Raises ConfigError."""
    from runtime.stores.open import open_documents, open_points

    points = open_points(
        settings.influx_uri, token=settings.influx_token, org=settings.influx_org, bucket=settings.influx_bucket
    )
    return Stores(open_documents(settings.mongo_uri, settings.mongo_database), points)
