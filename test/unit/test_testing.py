"""`runtime.testing`: a workflow in memory behaves as a deployed one, and one handler as in a runner."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from runtime.errors import ConfigError, ContextError, HandlerLoadError, PredictionError, WorkflowError
from runtime.message import MessageType
from runtime.stores.base import Point
from runtime.testing import RecordingContext, Sent, Workflow, call, run_workflow
from runtime.testing.stores import MemoryDocuments, MemoryPoints
from test.conformance.stores import document_store

pytestmark = pytest.mark.usefixtures("own_modules")

DOUBLE = "async def handler(ctx, data: int) -> int:\n    return 2 * data\n"


def write(folder: Path, workflow: str, **handlers: str) -> Path:
    """Write a workflow file and one `<node>/handler.py` for each handler; returns the folder."""
    (folder / "workflow.yaml").write_text(f"name: tested\n{workflow}")
    for name, code in handlers.items():
        (folder / name).mkdir()
        (folder / name / "handler.py").write_text(code)
    return folder


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Two nodes: one adds, one doubles and stores."""
    add = "def handler(ctx, data: int) -> int:\n    return data + 1\n"
    store = (
        "async def handler(ctx, data: int) -> int:\n"
        "    await ctx.db.save('seen', {'value': data})\n"
        "    ctx.measurement.save('value', {'value': data}, {'kind': 'seen'})\n"
        "    return 2 * data\n"
    )
    return write(tmp_path, "nodes: [{name: add}, {name: store}]\n", add=add, store=store)


# --- a whole workflow ---


def test_a_plain_test_sends_and_looks_at_everything(chain: Path) -> None:
    with run_workflow(chain) as workflow:
        answers = [workflow.send(number) for number in (1, 2)]

        assert answers == [4, 6]
        assert workflow.outputs("entrypoint") == [1, 2]
        assert workflow.outputs("add") == [2, 3]
        assert [document["value"] for document in workflow.documents("seen")] == [2, 3]
        assert [point.fields for point in workflow.points("value")] == [{"value": 2}, {"value": 3}]
        assert workflow.points("value")[0].tags["kind"] == "seen"
        assert workflow.dead_letters() == []


def test_nodes_share_objects_and_a_test_looks_at_them(tmp_path: Path) -> None:
    put = (
        "async def handler(ctx, data: str) -> str:\n"
        "    await ctx.object_store.save('page', data.encode())\n"
        "    return 'page'\n"
    )
    get = "def handler(ctx, key: str) -> str:\n    return ctx.run(ctx.object_store.get(key)).decode().upper()\n"
    folder = write(tmp_path, "objects: {pages: {}}\nnodes: [{name: put}, {name: get}]\n", put=put, get=get)

    with run_workflow(folder) as workflow:
        answer = workflow.send("text")

        assert answer == "TEXT"
        assert workflow.objects("pages") == {"page": b"text"}
        with pytest.raises(ConfigError, match='"tested" has no object store "page"; it has pages'):
            workflow.objects("page")


async def test_an_async_test_does_the_same(chain: Path) -> None:
    async with Workflow(chain) as workflow:
        assert await workflow.send(1) == 4
        assert workflow.outputs("store") == [4]


def test_a_request_follows_its_retries_without_waiting(chain: Path) -> None:
    started_s = time.monotonic()

    with run_workflow(chain) as workflow:
        workflow.fail("store", times=4)
        answer = workflow.send(1)

        assert answer == 4
        assert len(workflow.documents("seen")) == 1
        assert workflow.dead_letters() == []
    assert time.monotonic() - started_s < 5  # the four delays alone are 15 s


def test_a_message_that_fails_every_time_is_a_dead_letter_and_an_error_for_its_caller(chain: Path) -> None:
    with run_workflow(chain) as workflow:
        workflow.fail("add", times=5, error=ValueError("no such luck"))

        with pytest.raises(PredictionError, match="ValueError: no such luck") as failed:
            workflow.send(1)

        assert (failed.value.outcome, failed.value.node) == ("failed", "add")
        (letter,) = workflow.dead_letters("add")
        assert (letter.reason, letter.error, len(letter.attempts)) == ("failed", "ValueError: no such luck", 5)
        assert workflow.dead_letters("store") == []
        assert workflow.outputs("add") == []
        assert workflow.send(2) == 6


def test_states_are_kept_by_id_through_retries_and_a_test_looks_at_them(tmp_path: Path) -> None:
    count = (
        "from dataclasses import dataclass\n\n"
        "@dataclass\nclass State:\n    total: int = 0\n\n"
        "def handler(ctx, data: int) -> int:\n    ctx.state.total += data\n    return ctx.state.total\n"
    )
    flow = "nodes: [{name: count, state: true}, {name: last, order: true}]\n"
    with run_workflow(write(tmp_path, flow, count=count, last=DOUBLE)) as workflow:
        workflow.fail("count")

        assert [workflow.send(number, state_id="a") for number in (1, 2)] == [2, 6]
        assert workflow.send(5, state_id="b") == 10
        assert workflow.send(7) == 14
        assert workflow.outputs("count") == [1, 3, 5, 7]
        assert workflow.state("count", "a") == {"total": 3}
        assert (workflow.state("count"), workflow.state("count", "c")) == ({"total": 7}, None)


def test_a_posted_request_waits_for_the_clock(tmp_path: Path) -> None:
    folder = write(tmp_path, "nodes: [{name: double, retry: {first: 10s, jitter: 0}}]\n", double=DOUBLE)
    with run_workflow(folder) as workflow:
        workflow.fail("double")
        workflow.post(4)

        workflow.advance(9)
        assert workflow.outputs("double") == []

        workflow.advance(2)
        assert workflow.outputs("double") == [8]


@pytest.mark.parametrize("definition", ["async def", "def"])
def test_a_handler_that_hangs_runs_into_its_timeout_as_the_clock_advances(definition: str, tmp_path: Path) -> None:
    wait = "await asyncio.Event().wait()" if definition == "async def" else "released.wait(5)"
    code = (
        f"import asyncio, threading\nreleased = threading.Event()\n{definition} handler(ctx, data: int):\n    {wait}\n"
    )
    folder = write(tmp_path, "nodes: [{name: hang, timeout: 5s, retry: {attempts: 1}}]\n", hang=code)
    with run_workflow(folder) as workflow:
        workflow.post(1)

        workflow.advance(4)
        assert workflow.dead_letters() == []

        workflow.advance(2)
        assert [letter.reason for letter in workflow.dead_letters("hang")] == ["timeout"]
        sys.modules["handler"].released.set()


def test_a_request_that_nobody_answers_times_out_without_waiting(tmp_path: Path) -> None:
    nothing = "def handler(ctx, data: int):\n    return None\n"
    folder = write(tmp_path, "nodes: [{name: mute}, {name: double}]\n", mute=nothing, double=DOUBLE)

    with run_workflow(folder) as workflow, pytest.raises(PredictionError) as failed:
        workflow.send(1)

    assert failed.value.outcome == "timeout"


def test_all_answers_of_a_request_are_returned(tmp_path: Path) -> None:
    count = (
        "async def handler(ctx, data: int):\n"
        "    await ctx.send_early_reply('begun')\n"
        "    for number in range(data):\n"
        "        yield number\n"
    )
    with run_workflow(write(tmp_path, "nodes: [{name: count}]\n", count=count)) as workflow:
        assert workflow.send_all(3) == ["begun", 0, 1, 2]


def test_a_channel_is_looked_at_by_its_name(tmp_path: Path) -> None:
    route = "async def handler(ctx, data: int):\n    await ctx.send_output(data, 'odd' if data % 2 else '')\n"
    folder = write(tmp_path, "nodes: [{name: route}, {name: double, from: route.odd}]\n", route=route, double=DOUBLE)
    with run_workflow(folder) as workflow:
        answer = workflow.send(3)
        workflow.post(4)
        workflow.advance(1)

        assert answer == 6
        assert workflow.outputs("route", "odd") == [3]
        assert workflow.outputs("route") == [4]


def test_a_protobuf_answer_comes_unpacked(tmp_path: Path) -> None:
    code = (
        "from google.protobuf.wrappers_pb2 import StringValue\n"
        "def handler(ctx, data):\n"
        "    value = StringValue()\n"
        "    data.Unpack(value)\n"
        "    return StringValue(value=value.value.upper())\n"
    )
    with run_workflow(write(tmp_path, "nodes: [{name: shout}]\n", shout=code)) as workflow:
        assert workflow.send(StringValue(value="ada")) == StringValue(value="ADA")
        assert workflow.outputs("shout") == [StringValue(value="ADA")]


def test_the_file_s_configuration_and_variables_reach_the_handler_and_leave_with_it(tmp_path: Path) -> None:
    code = (
        "import os\nregion = os.environ['REGION']\n"
        "async def handler(ctx, data: int):\n"
        "    return [region, os.environ['TOKEN'], await ctx.configuration.get('threshold')]\n"
    )
    node = "{name: tell, config: {threshold: 0.7}, env: {REGION: north}, secrets: [TOKEN]}"
    folder = write(tmp_path, f"nodes: [{node}]\n", tell=code)

    with run_workflow(folder, environment={"TOKEN": "t"}) as workflow:
        assert workflow.send_all(1) == ["north", "t", "0.7"]

    assert "REGION" not in os.environ
    assert "TOKEN" not in os.environ


def test_two_values_of_one_variable_are_refused(tmp_path: Path) -> None:
    nodes = "[{name: a, env: {REGION: north}}, {name: b, env: {REGION: south}}]"
    folder = write(tmp_path, f"nodes: {nodes}\n", a=DOUBLE, b=DOUBLE)

    with pytest.raises(ConfigError, match="REGION is set to two values"), run_workflow(folder):
        pass


def test_nodes_have_modules_of_one_name_and_nothing_stays_behind(tmp_path: Path) -> None:
    handler = (
        "import model\n"
        "def init(ctx):\n    import late\n    ctx.set('late', late.NAME)\n"
        "def handler(ctx, data: str) -> str:\n    return f\"{data} {model.NAME} {ctx.get('late')}\"\n"
    )
    folder = write(tmp_path, "nodes: [{name: a}, {name: b}]\n", a=handler, b=handler)
    for name in ("a", "b"):
        (folder / name / "model.py").write_text(f"NAME = 'model-{name}'\n")
    (folder / "late.py").write_text("NAME = 'late'\n")
    path_before, modules_before = list(sys.path), {"handler", "worker", "model"} & sys.modules.keys()

    with run_workflow(folder) as workflow:
        assert workflow.send("x") == "x model-a late model-b late"

    assert sys.path == path_before
    assert {"handler", "worker", "model"} & sys.modules.keys() == modules_before


def test_a_fault_of_the_file_or_of_a_handler_is_raised_on_opening(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match="does not exist"), run_workflow(write(tmp_path, "nodes: [{name: gone}]\n")):
        pass
    write(tmp_path, "nodes: [{name: broken}]\n", broken="def handle(data): ...\n")
    with pytest.raises(HandlerLoadError, match="must implement a function"), run_workflow(tmp_path):
        pass


def test_what_init_raises_is_raised_on_opening_and_everything_is_closed(tmp_path: Path) -> None:
    code = "def init(ctx):\n    raise LookupError('no model')\n" + DOUBLE
    folder = write(tmp_path, "nodes: [{name: double}]\n", double=code)
    path_before = list(sys.path)

    with pytest.raises(LookupError, match="no model"), run_workflow(folder):
        pass

    assert sys.path == path_before


def test_an_unknown_node_is_named(chain: Path) -> None:
    with run_workflow(chain) as workflow:
        for look in (workflow.outputs, workflow.fail):
            with pytest.raises(ConfigError, match='has no node "stroe"; it has add, store'):
                look("stroe")


def test_a_request_to_a_workflow_that_is_not_open_is_refused(chain: Path) -> None:
    with pytest.raises(RuntimeError, match="use it inside `async with`"):
        asyncio.run(Workflow(chain).send(1))


# --- one handler ---


async def test_a_handler_alone_is_called_with_a_context_that_records() -> None:
    async def init(ctx: Any) -> None:
        ctx.set("factor", 3)
        ctx.unit = "m"

    async def handler(ctx: Any, data: int) -> str:
        await ctx.send_output({"half": data / 2}, "halves")
        await ctx.early_reply("begun")
        await ctx.db.save("seen", {"value": data})
        await ctx.prediction.save("cat", "dog", {"p": 0.5})
        ctx.measurement.save("value", {"value": data})
        return f"{data * ctx.get('factor')} {ctx.unit} {ctx.headers['kind']} {ctx.attempt}"

    ctx = RecordingContext(headers={"kind": "scan"}, attempt=2)
    await call(init, ctx)
    result = await call(handler, ctx, 5)

    assert result == "15 m scan 2"
    assert ctx.sent == [Sent({"half": 2.5}, "halves"), Sent("begun", type=MessageType.EARLY_REPLY)]
    assert [document["value"] for document in ctx.saved["seen"]] == [5]
    assert [(each["predictedValue"], each["trueValue"]) for each in ctx.predictions] == [("cat", "dog")]
    assert [(point.measurement, point.fields) for point in ctx.points] == [("value", {"value": 5})]


async def test_a_handler_alone_has_an_object_store() -> None:
    async def handler(ctx: Any, data: bytes) -> list[str]:
        await ctx.object_store.save("new", data + await ctx.object_store.get("old"))
        await ctx.object_store.delete("old")
        keys: list[str] = await ctx.object_store.list()
        return keys

    ctx = RecordingContext(objects={"old": b"given"})

    assert await call(handler, ctx, b"sent ") == ["new"]
    assert ctx.objects == {"new": b"sent given"}


async def test_a_handler_alone_changes_the_state_that_it_is_given() -> None:
    async def handler(ctx: RecordingContext, data: int) -> None:
        ctx.state["sum"] += data

    ctx = RecordingContext(state={"sum": 1})
    await call(handler, ctx, 2)

    assert ctx.state == {"sum": 3}
    with pytest.raises(ContextError, match="add 'state:'"):
        await call(handler, RecordingContext(), 2)


async def test_a_plain_handler_alone_may_wait_with_ctx_run() -> None:
    def handler(ctx: Any, data: str) -> list[dict[str, Any]]:
        ctx.run(ctx.db.save("names", {"name": data}))
        ctx.progress("saved")
        found: list[dict[str, Any]] = ctx.run(ctx.db.find("names", {"name": {"$ne": "Bob"}}))
        return found

    ctx = RecordingContext(documents={"names": [{"_id": 1, "name": "Ada"}, {"_id": 2, "name": "Bob"}]})
    found = await call(handler, ctx, "Eve")

    assert [document["name"] for document in found] == ["Ada", "Eve"]


async def test_a_generator_alone_returns_its_items() -> None:
    def plain(ctx: Any, data: int) -> Iterator[int]:
        yield from range(data)

    async def asynchronous(ctx: Any, data: int) -> AsyncIterator[int]:
        for number in range(data):
            yield number

    assert await call(plain, RecordingContext(), 2) == [0, 1]
    assert await call(asynchronous, RecordingContext(), 2) == [0, 1]


async def test_a_handler_alone_sees_values_configuration_paths_and_errors(tmp_path: Path) -> None:
    async def handler(ctx: Any, data: None) -> tuple[Any, ...]:
        return ctx.get("model"), await ctx.configuration.get("threshold"), ctx.path("data.csv"), ctx.error

    ctx = RecordingContext(path=tmp_path, values={"model": 1}, config={"threshold": "0.7"}, error="upstream failed")
    result = await call(handler, ctx, None)

    assert result == (1, "0.7", str(tmp_path / "data.csv"), "upstream failed")


async def test_what_a_runner_refuses_is_refused_for_a_handler_alone() -> None:
    async def wrong_channel(ctx: Any, data: int) -> None:
        await ctx.send_output(data, "No Channel")

    async def wrong_document(ctx: Any, data: int) -> None:
        await ctx.db.save("seen", {"value": float("nan")})

    def message_in_init(ctx: Any) -> str:
        return str(ctx.request_id)

    with pytest.raises(ContextError, match="'No Channel' is no channel"):
        await call(wrong_channel, RecordingContext(), 1)
    with pytest.raises(TypeError, match="'value' is nan"):
        await call(wrong_document, RecordingContext(), 1)
    with pytest.raises(ContextError, match="only available while a message is handled"):
        await call(message_in_init, RecordingContext())


# --- the stores behind both ---


@pytest.mark.parametrize("check", document_store.SUITE, ids=lambda check: check.__name__)
async def test_the_documents_in_memory_conform(check: Callable[[document_store.Open], Awaitable[None]]) -> None:
    collections: dict[str, dict[str | int, dict[str, Any]]] = {}

    await check(lambda: MemoryDocuments(collections))


async def test_a_point_without_fields_is_dropped_and_counted() -> None:
    points = MemoryPoints([])

    for fields in ({"a": 1}, {}):
        points.save(Point("m", fields, {}, 2))

    assert [point.fields for point in await points.query("m")] == [{"a": 1}]
    assert (points.counts.written, points.counts.dropped) == (1, 1)
