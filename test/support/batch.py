"""A worker of batch runs on a bus in memory, with models, a store and callbacks that do as they are told."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from runtime.batch.backend import Exit, Job, OnOutput, Prepared
from runtime.batch.parts import OutputLog, Stored, Tools
from runtime.batch.presence import Workers
from runtime.batch.records import RunRecords
from runtime.batch.run import Artifact, CallbackRecord, RunRecord, RunState
from runtime.batch.schemas import Schema
from runtime.batch.worker import Origin, Worker
from runtime.batch.workspace import Workspace
from runtime.bus.memory import MemoryBroker
from runtime.bus.presence import EXPIRY_S
from runtime.clock import FakeClock, settle
from runtime.payload import encode_value
from runtime.spec import names
from runtime.spec.batch import BatchSpec
from runtime.spec.node import RetryPolicy

STREAM = "prod_v1_floods"
NODE = "flood"
# Real seconds after which something that has to happen is taken for lost.
PATIENCE_S = 5.0
RETRY = RetryPolicy(attempts=3, first_s=1.0, factor=2.0, max_s=60.0, jitter=0.0)
OK = Exit(code=0)


def batch_spec(**changes: Any) -> BatchSpec:
    return BatchSpec(**{"backend": "command", "command": ("model",), "timeout_s": 60.0, **changes})


class FakeRunning:
    """A model that ends when it is told to, or stopped."""

    def __init__(self, backend: "FakeBackend", job: Job) -> None:
        self._backend = backend
        self._job = job
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        if backend.exits:
            self.ended.set_result(backend.exits.pop(0))

    async def wait(self) -> Exit:
        return await asyncio.shield(self.ended)

    async def stop(self, grace_s: float) -> None:
        self._backend.stopped.append(self._job.run_id)
        if not self.ended.done():
            self.ended.set_result(Exit(code=None, signal="SIGTERM", detail="ended by SIGTERM"))

    async def remove(self) -> None:
        self._backend.running.pop(self._job.run_id)
        self._backend.removed.append(self._job.run_id)


class FakeBackend:
    """Starts models in name only. exits: how the next ones end at once; without one a model runs until it is told.

    errors: what the next calls of `prepare` and `start` raise, None for nothing.
    """

    def __init__(self, *exits: Exit) -> None:
        self.exits = list(exits)
        self.errors: list[Exception | None] = []
        self.start_errors: list[Exception] = []
        self.output: list[tuple[str, bytes]] = []
        self.jobs: list[Job] = []
        self.running: dict[str, FakeRunning] = {}
        self.stopped: list[str] = []
        self.removed: list[str] = []
        self.most_at_once = 0
        self.pulling: asyncio.Event | None = None

    async def prepare(self, job: Job) -> Prepared:
        if self.pulling is not None:
            await self.pulling.wait()
        if self.errors and (error := self.errors.pop(0)):
            raise error
        return Prepared(version="3.1", digest="sha256:abc", labels={"krt.connector.version": "0.2"})

    async def start(self, job: Job, on_output: OnOutput) -> FakeRunning:
        if self.start_errors:
            raise self.start_errors.pop(0)
        assert job.run_id not in self.running, "a second process beside a living one"
        self.jobs.append(job)
        for stream, data in self.output:
            on_output(stream, data)
        self.running[job.run_id] = FakeRunning(self, job)
        self.most_at_once = max(self.most_at_once, len(self.running))
        return self.running[job.run_id]

    async def recover(self, worker: str) -> None: ...

    def end(self, run_id: str, ended: Exit = OK) -> None:
        self.running[run_id].ended.set_result(ended)


class FakeLog:
    def __init__(self, pieces: list[tuple[str, bytes]]) -> None:
        self._pieces = pieces

    def write(self, stream: str, data: bytes) -> None:
        self._pieces.append((stream, data))

    def close(self) -> None: ...


class FakeStoring:
    """Stores nothing. outcomes: what the next calls return, or raise; then everything is well."""

    def __init__(self) -> None:
        self.outcomes: list[Stored | Exception] = []
        self.records: list[RunRecord] = []
        self.log: list[tuple[str, bytes]] = []
        self.hold: asyncio.Event | None = None

    async def close(self) -> None: ...

    def open_log(self, workspace: Workspace) -> OutputLog:
        return FakeLog(self.log)

    async def store(self, record: RunRecord, workspace: Workspace) -> Stored:
        self.records.append(record)
        if self.hold is not None:
            await self.hold.wait()
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        artifact = Artifact(path="output/data.json", size=2, sha256="0" * 64, visibility="public")
        return outcome or Stored(artifacts=(artifact,), export=f"{record.locations.results}/public/export.zip")


class FakeCallbacks:
    """answers: of the next questions whether a run may start: True, False, or an error."""

    def __init__(self) -> None:
        self.answers: list[bool | Exception] = []
        self.asked: list[RunRecord] = []
        self.told: list[RunRecord] = []
        self.ends: list[CallbackRecord] = []
        self.holds: asyncio.Event | None = None

    def url(self, id: str, callback_url: str) -> str:
        return callback_url

    async def close(self) -> None: ...

    async def ask_start(self, record: RunRecord) -> bool:
        self.asked.append(record)
        if self.holds is not None:
            await self.holds.wait()
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def tell_end(self, record: RunRecord) -> CallbackRecord:
        self.told.append(record)
        end = record.callbacks.end
        return self.ends.pop(0) if self.ends else end.model_copy(update={"status": "sent", "tries": end.tries + 1})


class Bench:
    """One broker with any number of workers, and somebody who looks on."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.broker = MemoryBroker(self.clock)
        self.outside = self.broker.connect()
        self.records = RunRecords(self.outside, STREAM, self.clock)
        self.work = folder / "work"
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Bench":
        await self.outside.key_value(names.runs_bucket(STREAM), create=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def worker(
        self,
        *exits: Exit,
        owner: str = "there/1/1",
        host: str = "there",
        schema: Schema | None = None,
        **spec: Any,
    ) -> "WorkerUnderTest":
        worker = WorkerUnderTest(self, FakeBackend(*exits), owner, host, schema, batch_spec(**spec))
        await self._stack.enter_async_context(worker.workers)
        self._stack.push_async_callback(worker.stop)
        # Until then nobody knows whether another worker lives that has not been heard yet.
        await self.pass_time(EXPIRY_S + 1)
        return worker

    async def pass_time(self, seconds: float) -> None:
        """Move the time on in small steps, so that heartbeats go on."""
        for _ in range(round(seconds / 0.5)):
            await self.clock.advance(0.5)

    async def record(self, run_id: str = "r1_flood_0") -> RunRecord:
        return (await self.records.read(run_id)).record

    async def until(self, condition: Callable[[], bool], what: str = "", *, advance_s: float = 0.0) -> None:
        """Let the loop and its threads run until `condition` holds; time itself stands still, or moves by this much."""
        give_up_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < give_up_s, f"did not happen within {PATIENCE_S:g} s: {what or condition}"
            await (self.clock.advance(advance_s) if advance_s else asyncio.sleep(0))
        await settle()

    async def until_state(self, state: RunState, run_id: str = "r1_flood_0") -> None:
        seen: list[RunState] = []
        watch = await self.records.follow(run_id, lambda record: seen.append(record.state))
        try:
            await self.until(lambda: seen[-1:] == [state], f"{run_id} is {state}, seen: {seen}")
        finally:
            await watch.unsubscribe()


class WorkerUnderTest:
    """One worker with its parts."""

    def __init__(
        self, bench: Bench, backend: FakeBackend, owner: str, host: str, schema: Schema | None, spec: BatchSpec
    ) -> None:
        self.bus = bench.broker.connect()
        self.backend = backend
        self.storing = FakeStoring()
        self.callbacks = FakeCallbacks()
        self.workers = Workers(self.bus, STREAM, NODE, owner, bench.clock)
        self._bench = bench
        self._tasks: list[asyncio.Task[dict[str, Any]]] = []
        self.tools = Tools(
            spec=spec,
            retry=RETRY,
            records=RunRecords(self.bus, STREAM, bench.clock),
            backend=backend,
            storing=self.storing,
            callbacks=self.callbacks,
            work=bench.work,
            folder=bench.work.parent,
            owner=owner,
            host=host,
            clock=bench.clock,
        )
        self.worker = Worker(NODE, self.tools, self.workers, schema)

    async def handle(self, value: Any = None, request_id: str = "r1", *, redrive: int = 0) -> dict[str, Any]:
        """Handle a message whose runs end by themselves."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.worker.handle(encode_value({} if value is None else value), Origin(request_id, redrive))

    def begin(self, value: Any = None, request_id: str = "r1") -> asyncio.Task[dict[str, Any]]:
        """Begin to handle a message."""
        body = encode_value({} if value is None else value)
        self._tasks.append(asyncio.create_task(self.worker.handle(body, Origin(request_id))))
        return self._tasks[-1]

    async def stop(self) -> None:
        """Cancel what is handled, as a stopping node does."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.worker.close()

    def folders(self) -> Sequence[str]:
        return sorted(os.listdir(self._bench.work)) if self._bench.work.is_dir() else []
