"""Handlers in worker processes behave as those in threads do; what only a process can do is shown as well."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import HandlerLoadError, WorkerEndedError
from runtime.message import MessageType
from runtime.spec.batching import BatchingSpec
from test.support.isolated_node import IsolatedNode
from test.support.node import RETRY, node_spec

# Real seconds after which something that has to happen is taken for lost.
PATIENCE_S = 20.0

StartNode = Callable[..., Awaitable[IsolatedNode]]

# A node with its handler in a thread, and one with two worker processes.
each_isolation = pytest.mark.parametrize("workers", [0, 2], ids=["thread", "process"])


@pytest.fixture
async def start_node(tmp_path: Path, own_modules: None) -> AsyncIterator[StartNode]:
    """Start nodes; they are stopped after the test."""
    nodes: list[IsolatedNode] = []

    async def start(source: str, **options: Any) -> IsolatedNode:
        node = IsolatedNode(tmp_path / f"node-{len(nodes)}", source, **options)
        nodes.append(node)
        return await node.start()

    yield start
    for node in nodes:
        await node.stop()


# --- what a handler returns ---

HANDLERS = {
    "plain": ("def handler(ctx, data: dict): return {'got': data}", [{"got": {"a": 1}}]),
    "async": ("async def handler(ctx, data: dict): return {'got': data}", [{"got": {"a": 1}}]),
    "generator": ("def handler(ctx, data: dict):\n  yield 1\n  yield data", [1, {"a": 1}]),
    "async generator": ("async def handler(ctx, data: dict):\n  yield 1\n  yield data", [1, {"a": 1}]),
    "list": ("def handler(ctx, data: dict): return [1, 'two', b'three']", [1, "two", b"three"]),
    "nothing": ("def handler(ctx, data: dict): return None", []),
    "bytes": ("def handler(ctx, data: dict): return bytes(1_000_000)", [bytes(1_000_000)]),
    "sent": ("async def handler(ctx, data: dict):\n  await ctx.send_output(1)\n  return 2", [1, 2]),
    "sent from a thread": ("def handler(ctx, data: dict):\n  ctx.run(ctx.send_output(1))\n  return 2", [1, 2]),
    "by sender": (
        "async def entry(ctx, data): await ctx.send_any(data)\ncustom_handlers = {'entrypoint': entry}",
        [{"a": 1}],
    ),
}  # fmt: skip


@each_isolation
@pytest.mark.parametrize(("source", "outputs"), HANDLERS.values(), ids=HANDLERS.keys())
async def test_outputs_are_those_of_the_handler(
    start_node: StartNode, workers: int, source: str, outputs: list[Any]
) -> None:
    node = await start_node(source, workers=workers)

    await node.send({"a": 1})
    await node.settled()

    assert node.outputs() == outputs
    assert node.dead_letters() == []


@each_isolation
async def test_an_early_exit_ends_the_request_with_what_the_handler_returns(
    start_node: StartNode, workers: int
) -> None:
    node = await start_node("def handler(ctx, data: dict):\n  ctx.early_exit()\n  return data", workers=workers)

    await node.call({"a": 1})
    await node.settled()

    assert [message.type for message in node.messages()] == [MessageType.EARLY_EXIT]
    assert len(node.replies) == 1


@each_isolation
async def test_an_atomic_node_stores_all_outputs_or_none(start_node: StartNode, workers: int) -> None:
    source = """
        async def handler(ctx, data: int):
            await ctx.send_output("first")
            if data == 2:
                raise ValueError("no")
            return ["second", "third"]
    """
    spec = node_spec(atomic=True, retry=RETRY.model_copy(update={"attempts": 1}))
    node = await start_node(source, workers=workers, spec=spec)

    await node.send(1)
    await node.send(2)
    await node.settled()

    assert node.outputs() == ["first", "second", "third"]
    assert node.the_dead_letter().error == "ValueError: no"


@each_isolation
async def test_outputs_have_the_headers_that_the_handler_has_given_them(start_node: StartNode, workers: int) -> None:
    source = """
        async def handler(ctx, data: int):
            await ctx.send_output("first")
            ctx.set_header("kind", "scan")
            await ctx.send_output("second")
            ctx.set_header("kind", "text")
            return "third"
    """
    node = await start_node(source, workers=workers)

    await node.send(1, headers={"page": "7"})
    await node.settled()

    kinds = [message.headers.get("kind") for message in node.messages()]
    assert kinds == [None, "scan", "text"]
    assert {message.headers["page"] for message in node.messages()} == {"7"}


# --- what it can do ---

CONTEXT = """
    async def init(ctx):
        ctx.model = "small"
        ctx.set("threshold", 0.5)
        await ctx.configuration.set("ready", "yes")

    async def handler(ctx, data: dict):
        await ctx.early_reply({"wait": True})
        ctx.logger.info("handling %s", data["name"])
        ctx.progress("half way")
        ctx.measurement.save("seen", {"count": 3}, {"kind": "test"})
        await ctx.prediction.save("spam", "ham")
        document = await ctx.db.save("people", data)
        async def chunks():
            yield b"x" * 300_000
            yield b"y"
        await ctx.object_store.save("photo", b"z" * 100_000)
        await ctx.object_store.save_stream("film", chunks())
        film = b"".join([chunk async for chunk in ctx.object_store.get_stream("film")])
        names = await ctx.object_store.list("o")
        await ctx.object_store.delete("film")
        return {
            "document": document,
            "found": await ctx.db.find("people", {"name": "Ada"}),
            "film": [len(film), film[-1:].decode()],
            "photo": len(await ctx.object_store.get("photo")),
            "names": names,
            "left": await ctx.object_store.list(),
            "ready": await ctx.configuration.get("ready"),
            "init": [ctx.model, ctx.get("threshold"), ctx.get("nothing", "default")],
            "path": ctx.path("weights").rpartition("/")[2],
            "facts": [ctx.request_id, ctx.from_node, ctx.attempt, ctx.redrive, ctx.sequence, dict(ctx.headers)],
            "types": [ctx.is_message_ok(), ctx.is_message_error(), ctx.error],
            "id": ctx.derive_id("row"),
            "deadline": ctx.deadline is not None,
        }
"""
VARIABLES = {"NATS_OBJECT_STORE": "objects", "NATS_KEY_VALUE_STORE_NODE": "settings"}


async def test_its_context_does_what_it_does_in_a_thread(
    start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    outputs, points, logged = [], [], []
    for workers in (0, 2):
        caplog.clear()
        node = await start_node(CONTEXT, workers=workers, variables=VARIABLES)
        await node.run_writer()
        await node.call({"name": "Ada"}, headers={"kind": "scan"})
        await node.settled()
        early, output = node.outputs()
        outputs.append(output)
        assert early == {"wait": True}
        logged += [
            (each.name, each.message, vars(each).get("request_id"))
            for each in caplog.records
            if "Ada" in each.getMessage()
        ]
        await node.process._stores.points.close()
        points.append(node.process._stores.points.counts.written)

    assert outputs[0] == outputs[1]
    assert outputs[1]["found"][0]["name"] == "Ada"
    assert outputs[1]["film"] == [300_001, "y"]
    assert (outputs[1]["names"], outputs[1]["left"]) == (["photo"], ["photo"])
    assert points == [1, 1]
    assert logged == [("v1-work", "handling Ada", "r1")] * 2


FAULTS = {
    "no such key": "await ctx.object_store.get('nothing')",
    "no such value": "await ctx.configuration.get('nothing')",
    "no such scope": "await ctx.configuration.get('key', 'moon')",
    "a wrong payload": "await ctx.object_store.save('key', 'text')",
    "a wrong document": "await ctx.db.save('people', {'when': object()})",
    "a wrong query": "await ctx.db.find('people', {'age': {'$near': 3}})",
    "a wrong collection": "await ctx.db.save('', {})",
    "a wrong channel": "await ctx.send_output(1, 'No Channel')",
    "nothing in JSON": "await ctx.send_output(object())",
    "a missing value": "ctx.get('nothing')",
    "no state": "ctx.state",
}


async def test_its_context_refuses_what_it_refuses_in_a_thread(start_node: StartNode) -> None:
    cases = "\n".join(f"    if fault == {name!r}:\n        {deed}" for name, deed in FAULTS.items())
    source = f"""
async def commit(ctx, fault):
{cases}

async def handler(ctx, data: str):
    try:
        await commit(ctx, data)
    except Exception as error:
        return {{"fault": data, "classes": [each.__name__ for each in type(error).__mro__], "text": str(error)}}
"""
    outputs = []
    for workers in (0, 1):
        node = await start_node(source, workers=workers, variables=VARIABLES)
        for fault in FAULTS:
            await node.send(fault)
        await node.settled()
        outputs.append(sorted(node.outputs(), key=lambda told: str(told["fault"])))

    assert outputs[1] == outputs[0]
    assert [told["fault"] for told in outputs[0]] == sorted(FAULTS)


# --- how it fails ---

FAILURES = {
    "reject": "raise Reject('no good')",
    "returned": "return Reject('no good')",
    "drop": "return Drop('not needed')",
    "never": "raise Gone('for ever')",
    "its base": "raise Lost('for ever')",
    "an error": "raise ValueError('wrong')",
    "a key": "{}['key']",
    "an exit": "raise SystemExit(3)",
    "no JSON": "return object()",
    "not a number": "return float('nan')",
    "after an output": "return [1, Reject('the rest')]",
    "a group": "raise ExceptionGroup('several', [ValueError('one')])",
    "a bus": "raise MessageTooLargeError('too large')",
}


async def test_it_fails_as_in_a_thread(start_node: StartNode) -> None:
    cases = "\n".join(f"    if data == {name!r}:\n        {deed}" for name, deed in FAILURES.items())
    source = f"""
from runtime.errors import MessageTooLargeError, Drop, Reject

class Gone(Exception):
    def __init__(self, when):
        super().__init__("gone", when)

    def __str__(self):
        return f"gone {{self.args[1]}}"

class Lost(Gone, LookupError):
    pass

def handler(ctx, data: str):
{cases}
"""
    seen = []
    for workers in (0, 1):
        spec = node_spec(retry=RETRY.model_copy(update={"attempts": 1, "never": ("Gone",)}))
        node = await start_node(source, workers=workers, spec=spec)
        for name in FAILURES:
            await node.send(name, request_id=name)
        await node.settled()
        letters = [
            (
                letter.request_id,
                letter.reason,
                letter.error,
                _without_places(letter.traceback, node),
                len(letter.attempts),
            )
            for _, letter in node.dead_letters()
        ]
        seen.append((sorted(letters), node.outputs(), sorted(message.error for message in node.errors())))

    assert seen[1] == seen[0]
    assert len(seen[0][0]) == len(FAILURES) - 1, "all but the one that is dropped"


def _without_places(traceback: str, node: IsolatedNode) -> str:
    """Return a traceback without what two nodes in one test differ in: their folders, and the modules' names."""
    return traceback.replace(str(node._folder), "").replace("worker.", "handler.")


@each_isolation
async def test_a_retry_comes_again_when_the_handler_says(start_node: StartNode, workers: int) -> None:
    source = """
        from runtime.errors import Retry

        def handler(ctx, data: dict):
            if ctx.attempt == 1:
                raise Retry(7.5)
            return ctx.attempt
    """
    node = await start_node(source, workers=workers)

    await node.send({})
    await node.released()
    await node.clock.advance(7.4)
    early = node.outputs()
    await node.clock.advance(0.2)
    await node.settled()

    assert (early, node.outputs()) == ([], [2])


@each_isolation
async def test_a_payload_that_does_not_fit_is_a_dead_letter_at_once(start_node: StartNode, workers: int) -> None:
    node = await start_node("def handler(ctx, data: int): return data", workers=workers)

    await node.send("text")
    await node.settled()

    letter = node.the_dead_letter()
    assert (letter.reason, len(letter.attempts)) == ("payload", 0)


# --- what only a process can do ---

CRASHES = {
    "exit": ("os._exit(3)", "exit code 3"),
    "kill": ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL, which the kernel sends when memory has run out"),
    "segmentation fault": ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
    "in a coroutine": ("asyncio.run(leave())", "exit code 4"),
}


@pytest.mark.parametrize(("crash", "how"), CRASHES.values(), ids=CRASHES.keys())
async def test_a_message_that_crashes_its_worker_ends_as_a_dead_letter_and_its_neighbours_pass(
    start_node: StartNode, crash: str, how: str
) -> None:
    source = f"""
        import asyncio, os, signal

        async def leave():
            os._exit(4)

        def handler(ctx, data: int):
            if data == 3:
                {crash}
            return data
    """
    node = await start_node(source, workers=2, spec=node_spec(retry=RETRY.model_copy(update={"attempts": 2})))

    for number in range(6):
        await node.send(number)
    await node.until(lambda: len(node.outputs()) == 5, "the neighbours")
    await node.released()
    await node.clock.advance(1.0)
    await node.settled()

    assert sorted(node.outputs()) == [0, 1, 2, 4, 5]
    letter = node.the_dead_letter()
    assert letter.reason == "failed"
    assert letter.error == (f"WorkerEndedError: the worker process has ended while it handled the message, with {how}")
    assert [attempt.attempt for attempt in letter.attempts] == [1, 2]


async def test_a_message_that_overruns_its_time_ends_with_its_worker(start_node: StartNode) -> None:
    source = """
        import os

        def handler(ctx, data: int):
            while data == 1:
                pass
            return os.getpid()
    """
    spec = node_spec(timeout_s=10.0, retry=RETRY.model_copy(update={"attempts": 1}))
    node = await start_node(source, spec=spec)

    await node.send(0)
    await node.settled()
    await node.send(1)
    await node.until(lambda: node.in_hand == 1)
    await node.clock.advance(11.0)
    await node.settled()
    await node.send(2)
    await node.settled()

    assert node.the_dead_letter().reason == "timeout"
    first, second = node.outputs()
    assert first != second
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


async def test_the_wait_for_another_worker_is_not_of_the_messages_time(start_node: StartNode) -> None:
    source = """
        import os

        def handler(ctx, data: int):
            if ctx.attempt == 1 and data == 1:
                os._exit(1)
            return data
    """
    spec = node_spec(timeout_s=10.0, concurrency=2)
    node = await start_node(source, spec=spec)

    await node.send(1)
    await node.send(2)
    await node.until(lambda: node.state.ack_pending == 2)
    for _ in range(20):
        await node.clock.advance(20.0)
    await node.settled()

    assert sorted(node.outputs()) == [1, 2]
    assert node.dead_letters() == []


async def test_the_node_goes_on_while_a_handler_holds_the_interpreter(start_node: StartNode) -> None:
    node = await start_node("def handler(ctx, data: int): return sum(range(data))", workers=1)

    await node.send(50_000_000)
    ticks = 0
    async with asyncio.timeout(PATIENCE_S):
        while node.outputs() == []:
            await asyncio.sleep(0.001)
            ticks += 1

    assert ticks > 20


async def test_init_and_teardown_run_in_every_worker(start_node: StartNode, tmp_path: Path) -> None:
    source = f"""
        import os
        from pathlib import Path

        def init(ctx):
            Path({str(tmp_path)!r}, f"init-{{os.getpid()}}").touch()

        def teardown(ctx):
            Path({str(tmp_path)!r}, f"teardown-{{os.getpid()}}").touch()

        def handler(ctx, data): return data
    """
    node = await start_node(source, workers=3)
    begun = sorted(name.removeprefix("init-") for name in os.listdir(tmp_path) if name.startswith("init-"))

    await node.stop()

    ended = sorted(name.removeprefix("teardown-") for name in os.listdir(tmp_path) if name.startswith("teardown-"))
    assert len(begun) == 3
    assert ended == begun


BROKEN = {
    "its import": ("import nothing_like_this", HandlerLoadError, "handler.py:2: ModuleNotFoundError: No module named"),
    "its signature": ("def handler(ctx): ...", HandlerLoadError, r"expected handler\(ctx, data\)"),
    "its init": (
        "def init(ctx): raise RuntimeError('no model')\ndef handler(ctx, data): ...",
        RuntimeError,
        "no model",
    ),
    "a crash of its import": (
        "import os; os._exit(5)",
        WorkerEndedError,
        "while it imported the handler, with exit code 5",
    ),
    "a crash of its init": (
        "import os\ndef init(ctx): os._exit(6)\ndef handler(ctx, data): ...",
        WorkerEndedError,
        "in the handler's init, with exit code 6",
    ),
}


@pytest.mark.parametrize(("source", "error", "text"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_node_does_not_start_with_a_fault_in(
    start_node: StartNode, source: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        await start_node(f"\n{source}", workers=2)


async def test_batches_are_handled_in_workers_and_a_message_that_cannot_be_read_fails_alone(
    start_node: StartNode,
) -> None:
    source = """
        import os

        async def handler(ctx, data: list[int]) -> list:
            await ctx.items[0].send_output([ctx.items[0].request_id, len(data)])
            return [Ellipsis if number == 7 else number * 10 for number in data]
    """
    spec = node_spec(batching=BatchingSpec(max_messages=4, wait_s=1000.0))
    node = await start_node(source, workers=1, spec=spec)

    for value in (1, "two", 3, 7):
        await node.send(value)
    await node.settled()

    assert node.outputs() == [["r1", 3], 10, 30]
    assert sorted(letter.reason for _, letter in node.dead_letters()) == ["encode", "payload"]


async def test_a_batch_that_crashes_its_worker_is_taken_apart(start_node: StartNode) -> None:
    source = """
        import os

        def handler(ctx, data: list[int]) -> list:
            if 3 in data:
                os._exit(1)
            return data
    """
    spec = node_spec(
        batching=BatchingSpec(max_messages=4, wait_s=1000.0), retry=RETRY.model_copy(update={"attempts": 1})
    )
    node = await start_node(source, workers=1, spec=spec)

    for value in range(4):
        await node.send(value)
    async with asyncio.timeout(PATIENCE_S):
        while node.dead_letters() == [] or len(node.outputs()) < 3:
            await node.clock.advance(1.0)
            await asyncio.sleep(0.01)

    assert sorted(node.outputs()) == [0, 1, 2]
    assert node.the_dead_letter().error.startswith("WorkerEndedError")


async def test_a_message_whose_output_cannot_be_handed_over_ends_all_the_same(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await start_node(
        "def handler(ctx, data: int):\n  ctx.run(ctx.send_output(data))",
        spec=node_spec(timeout_s=10.0, retry=RETRY.model_copy(update={"attempts": 1})),
    )
    begun = asyncio.Event()

    async def publish(subject: str, *_: Any, **__: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(node.process._publisher, "publish", publish)
    await node.send(1)
    async with asyncio.timeout(PATIENCE_S):
        await begun.wait()
    monkeypatch.undo()
    await node.clock.advance(11.0)
    await node.settled()

    assert node.the_dead_letter().reason == "timeout"


async def test_an_output_that_nobody_waits_for_is_stored_before_its_message_ends(start_node: StartNode) -> None:
    source = """
        import asyncio

        async def handler(ctx, data: int):
            ctx.task = asyncio.create_task(ctx.send_output(data))
            await asyncio.sleep(0)
    """
    node = await start_node(source)

    await node.send(1)
    await node.settled()

    assert node.outputs() == [1]


async def test_a_task_that_is_left_behind_cannot_send_for_a_later_message(start_node: StartNode) -> None:
    source = """
        import asyncio

        go = asyncio.Event()

        async def late(ctx):
            await go.wait()
            try:
                await ctx.send_output("late")
            except Exception as error:
                ctx.set("error", str(error))

        async def handler(ctx, data: int):
            if data == 1:
                ctx.set("task", asyncio.create_task(late(ctx)))
                return None
            go.set()
            await ctx.get("task")
            return ctx.get("error")
    """
    node = await start_node(source)

    await node.send(1)
    await node.send(2)
    await node.settled()

    assert node.outputs() == ["ctx.send_output is only available while a message is handled"]


async def test_what_a_worker_prints_and_warns_of_is_in_the_nodes_log(
    start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    source = """
        import logging

        log = logging.getLogger("my.library")
        print("imported")

        def handler(ctx, data: int):
            log.warning("half a pair: \\ud800")
            try:
                1 / 0
            except ZeroDivisionError:
                log.exception("it went wrong")
            return data
    """
    node = await start_node(source)

    await node.send(1)
    await node.settled()
    await node.stop()

    told = {(record.name, record.levelname): record.getMessage() for record in caplog.records}
    assert told["runtime.node.isolation_worker", "INFO"] == "imported"
    assert told["my.library", "WARNING"] == "half a pair: ?"
    assert told["my.library", "ERROR"].startswith("it went wrong\nTraceback")
    assert "ZeroDivisionError" in told["my.library", "ERROR"]
