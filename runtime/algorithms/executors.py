"""Where the functions of a runner run: in threads of its process, or in worker processes that can be killed.

| isolation | adapter imported in | a call that overruns |
|---|---|---|
| `thread` | the runner | keeps its thread until it ends by itself; a coroutine function is cancelled |
| `process` | each worker, and not in the runner | is killed, and its worker replaced |
"""

import asyncio
import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from runtime.algorithms.call import answer_of, awaited, perform
from runtime.algorithms.child import JOB, call_frame, read_answer, read_offer
from runtime.algorithms.discover import Algorithm, Description, Offer
from runtime.algorithms.wire import Answer, Failure, Outcome
from runtime.children import describe_exit
from runtime.errors import AdapterError, KrtError, WorkerEndedError
from runtime.threads import HandlerThreads
from runtime.workers import Worker

log = logging.getLogger(__name__)


class Execution(Protocol):
    """One call that has begun. answer: done when its place is free again."""

    answer: asyncio.Task[Answer]

    def give_up(self) -> None:
        """Nobody waits for the answer any more: end the call, if that is possible."""
        ...


class Place(Protocol):
    """Room for one call, to be begun or released once."""

    def begin(self, name: str, body: bytes) -> Execution:
        """Begin a call of an algorithm; the answer is never an exception."""
        ...

    def release(self) -> None:
        """Give the place back unused."""
        ...


class Executor(Protocol):
    """Runs calls, as many at once as it is asked to."""

    async def place(self) -> Place | Failure:
        """Return room for one call; what that takes, as the start of a process, is not of the call's time."""
        ...

    async def close(self) -> None:
        """Give up whatever still runs."""
        ...


class ThreadExecutor:
    """See `Executor`. count: threads, which is how many plain functions run at once."""

    def __init__(self, offer: Offer, count: int) -> None:
        self._offer = offer
        self._threads = HandlerThreads(count, "algorithm")

    async def place(self) -> Place:
        return self

    def begin(self, name: str, body: bytes) -> Execution:
        return _ThreadCall(self._threads, self._offer.algorithms[name], body)

    def release(self) -> None:
        """There is a thread for every slot."""

    async def close(self) -> None:
        self._threads.close()


class _ThreadCall:
    def __init__(self, threads: HandlerThreads, algorithm: Algorithm, body: bytes) -> None:
        self._threads = threads
        self._given_up = False
        self._on_loop = False
        self.answer = asyncio.create_task(self._run(algorithm, body), name=f"call {algorithm.description.name}")

    def give_up(self) -> None:
        self._given_up = True
        if self._on_loop:
            self.answer.cancel()

    async def _run(self, algorithm: Algorithm, body: bytes) -> Answer:
        done = await self._threads.call(perform, algorithm, body)
        if not inspect.isawaitable(done):
            return done  # type: ignore[no-any-return]  # what `perform` returns
        result = awaited(done)
        if self._given_up:
            result.close()
            raise asyncio.CancelledError
        self._on_loop = True
        value = await result
        self._on_loop = False
        return await self._threads.call(answer_of, value)  # type: ignore[no-any-return]  # what it returns


class ProcessExecutor:
    """See `Executor`. Workers are started when all others are busy, and kept."""

    def __init__(self, adapter: str, environment: Mapping[str, str]) -> None:
        """environment: what workers see besides `workers.INHERITED`."""
        self._adapter = adapter
        self._environment = environment
        self._idle: list[Worker] = []
        self._workers: set[Worker] = set()
        self._replacing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def discover(self) -> Sequence[Description]:
        """Start the first worker, and return what the adapter offers. Raises AdapterError."""
        try:
            worker, offer = await self._start()
        except WorkerEndedError as error:
            raise AdapterError([f"adapter {self._adapter} cannot be imported: {error}"]) from error
        self._idle.append(worker)
        return offer

    async def place(self) -> Place | Failure:
        try:
            return _WorkerPlace(self, await self._take())
        except (KrtError, OSError) as error:
            log.error("no worker can be started: %s", error, extra={"action": "worker"})
            return Failure(outcome=Outcome.FAILED, detail=f"no worker can be started: {error}")

    async def close(self) -> None:
        self._closed = True
        for task in self._replacing:
            task.cancel()
        for worker in self._workers:
            worker.kill()
        await asyncio.gather(*(worker.wait() for worker in self._workers))

    def give_back(self, worker: Worker) -> None:
        """Keep a worker for the next call, or another in its place if it has ended."""
        if worker.is_alive and not worker.is_busy:
            self._idle.append(worker)
            return
        self._workers.discard(worker)
        if not self._closed:
            replacing = asyncio.create_task(self._replace(), name="replace a worker")
            self._replacing.add(replacing)
            replacing.add_done_callback(self._replacing.discard)

    async def _take(self) -> Worker:
        while self._idle or self._replacing:
            if not self._idle:
                await asyncio.wait(self._replacing, return_when=asyncio.FIRST_COMPLETED)
                continue
            worker = self._idle.pop()
            if worker.is_alive:
                return worker
            self._workers.discard(worker)
        return (await self._start())[0]

    async def _start(self) -> tuple[Worker, Sequence[Description]]:
        worker = await Worker.start(JOB, on_line=_log_line, environment=self._environment)
        self._workers.add(worker)
        try:
            return worker, read_offer(await worker.ask(self._adapter.encode()))
        except BaseException:
            self._workers.discard(worker)
            worker.kill()
            raise

    async def _replace(self) -> None:
        try:
            self._idle.append((await self._start())[0])
        except (KrtError, OSError) as error:  # the next call tries again, and tells its caller
            log.error("a worker cannot be replaced: %s", error, extra={"action": "worker"})


class _WorkerPlace:
    def __init__(self, executor: ProcessExecutor, worker: Worker) -> None:
        self._executor = executor
        self._worker = worker

    def begin(self, name: str, body: bytes) -> Execution:
        return _ProcessCall(self._executor, self._worker, name, body)

    def release(self) -> None:
        self._executor.give_back(self._worker)


class _ProcessCall:
    def __init__(self, executor: ProcessExecutor, worker: Worker, name: str, body: bytes) -> None:
        self._worker = worker
        self.answer = asyncio.create_task(self._run(executor, name, body), name=f"call {name}")

    def give_up(self) -> None:
        self._worker.kill()

    async def _run(self, executor: ProcessExecutor, name: str, body: bytes) -> Answer:
        worker = self._worker
        try:
            return read_answer(await worker.ask(call_frame(name, body)))
        except WorkerEndedError as error:
            log.warning("a worker has ended in %s: %s", name, error, extra={"action": "worker"})
            ended = describe_exit(error.exit_code)
            return Failure(outcome=Outcome.FAILED, detail=f"the process of the algorithm has ended with {ended}")
        finally:
            executor.give_back(worker)


def _log_line(line: str) -> None:
    log.info("%s", line, extra={"action": "printed"})
