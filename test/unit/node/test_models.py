"""Kind `models` on a bus in memory, with hosts that answer what a test says."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.memory import MemoryBroker
from runtime.clock import FakeClock
from runtime.errors import BusClosedError, HandlerLoadError
from runtime.models.wire import CALL_ID_HEADER
from runtime.node.builtin.models import load_functions, value_of
from runtime.spec.node import CallValue, Instance, Limits, ModelCall, ModelsSpec
from runtime.stores.prediction import COLLECTION
from test.support.fake_host import CLUSTER, HANG, FakeHost, Methods
from test.support.node import NodeUnderTest, node_spec
from test.unit.node.conftest import StartNode

PREDICT = ModelCall(method="predict", args=(CallValue(path="payload"),))
StartHost = Callable[..., Awaitable[FakeHost]]
StartCoordinator = Callable[..., Awaitable[NodeUnderTest]]


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker(FakeClock())


@pytest.fixture
async def start_host(broker: MemoryBroker) -> AsyncIterator[StartHost]:
    hosts: list[FakeHost] = []

    async def start(model_id: str, methods: Methods) -> FakeHost:
        hosts.append(FakeHost(broker.connect(), broker.clock, model_id, methods))
        return await hosts[-1].start()

    yield start
    for host in hosts:
        await host.stop()


@pytest.fixture
def start_coordinator(start_node: StartNode, broker: MemoryBroker) -> StartCoordinator:
    async def start(calls: Sequence[ModelCall] = (PREDICT,), **options: Any) -> NodeUnderTest:
        spec = ModelsSpec(cluster=CLUSTER, base_class="birds.base.Tracker", calls=tuple(calls), **options)
        return await start_node("", spec=node_spec(models=spec, concurrency=1), broker=broker)

    return start


def told(output: dict[str, Any]) -> dict[str, Any]:
    """Return the results of an output, and the reasons of those that have none."""
    return {model: entry["result"] or entry["detail"].split(":")[0] for model, entry in output.items()}


async def test_every_model_has_an_entry(start_host: StartHost, start_coordinator: StartCoordinator) -> None:
    await start_host("m1", {"predict": lambda data: data["price"] * 2})
    await start_host("m2", {"predict": lambda data: {"up": 0.5}})
    await start_host("m3", {"predict": lambda data: 1 / 0})
    node = await start_coordinator()

    await node.send({"price": 4})
    await node.settled()

    (output,) = node.outputs()
    assert set(output["m1"]) == {"status", "result", "exec_time_us", "detail"}
    assert (output["m1"]["status"], output["m1"]["result"], output["m1"]["detail"]) == ("SUCCESS", 8, "")
    assert output["m2"]["result"] == {"up": 0.5}
    assert (output["m3"]["status"], output["m3"]["result"]) == ("FAILED", None)
    assert output["m3"]["detail"].startswith("MODEL_FAILED: ZeroDivisionError")


async def test_without_a_model_the_output_is_empty(start_coordinator: StartCoordinator) -> None:
    node = await start_coordinator()

    await node.send({})
    await node.settled()

    assert node.outputs() == [{}]


async def test_calls_follow_each_other_with_their_arguments(
    start_host: StartHost, start_coordinator: StartCoordinator
) -> None:
    host = await start_host("m1", {"tick": lambda *_, **__: None, "predict": lambda: "up"})
    paths = tuple(CallValue(path=path) for path in ("payload", "payload.prices.1", "payload.a.b"))
    mode = {"mode": CallValue(value=[1, "fast"]), "size": CallValue(path="payload.prices.0")}
    node = await start_coordinator([ModelCall(method="tick", args=paths, kwargs=mode), ModelCall(method="predict")])
    data = {"prices": [3, 5], "a": {"b": "c"}}

    await node.send(data)
    await node.settled()

    assert host.called == ["tick", "predict"]
    assert host.arguments == [([data, 5, "c"], {"mode": [1, "fast"], "size": 3}), ([], {})]
    assert told(node.outputs()[0]) == {"m1": "up"}


async def test_the_results_of_all_calls_are_told_by_their_methods(
    start_host: StartHost, start_coordinator: StartCoordinator
) -> None:
    await start_host("m1", {"tick": lambda: "ticked", "predict": lambda: "up"})
    node = await start_coordinator([ModelCall(method="tick"), ModelCall(method="predict")], emit="all")

    await node.send({})
    await node.settled()

    (output,) = node.outputs()
    assert {method: told(entries) for method, entries in output.items()} == {
        "tick": {"m1": "ticked"},
        "predict": {"m1": "up"},
    }


async def test_a_model_is_made_with_the_arguments_of_the_node(
    start_host: StartHost, start_coordinator: StartCoordinator
) -> None:
    host = await start_host("m1", {"predict": lambda _: 1})

    await start_coordinator(instance=Instance(args=(7,), kwargs={"level": "high"}))

    (setup,) = host.setups
    assert setup.className == "birds.base.Tracker"
    assert (len(setup.instanceArguments), setup.instanceKwArguments[0].keyword) == (1, "level")


async def test_a_path_that_leads_nowhere_is_a_dead_letter(start_coordinator: StartCoordinator) -> None:
    node = await start_coordinator([ModelCall(method="tick", args=(CallValue(path="payload.a.b"),))])

    await node.send({"a": {}})
    await node.settled()

    letter = node.the_dead_letter()
    assert (letter.reason, letter.error) == ("payload", "DecodeError: the payload has nothing at 'payload.a.b'")


@pytest.mark.parametrize("data", [None, "text", 5, {"a": [1]}, {"a": {"c": 1}}, {"a": "text"}])
def test_no_payload_makes_a_path_fail_otherwise(data: Any) -> None:
    with pytest.raises(Exception, match=r"the payload has nothing at 'payload\.a\.b'"):
        value_of(CallValue(path="payload.a.b"), data)


async def test_a_hung_model_takes_its_call_timeout_and_no_more(
    start_host: StartHost, start_coordinator: StartCoordinator
) -> None:
    await start_host("m1", {"predict": lambda _: HANG})
    await start_host("m2", {"predict": lambda _: "up"})
    node = await start_coordinator(call_timeout_s=2.0)

    await node.send({})
    await node.clock.advance(2.1)
    await node.settled()

    assert told(node.outputs()[0]) == {"m1": "DEADLINE_EXCEEDED", "m2": "up"}


async def test_a_model_that_joins_later_is_called_without_a_restart(
    start_host: StartHost, start_coordinator: StartCoordinator
) -> None:
    await start_host("m1", {"predict": lambda _: "up"})
    node = await start_coordinator()
    joined = await start_host("m2", {"predict": lambda _: "down"})
    await node.until(lambda: joined.is_set_up)

    await node.send({})
    await node.settled()

    assert told(node.outputs()[0]) == {"m1": "up", "m2": "down"}


async def test_too_few_successes_fail_the_delivery_and_repeat_no_call_that_was_answered(
    start_host: StartHost, start_coordinator: StartCoordinator
) -> None:
    answers = itertools.chain([HANG], itertools.repeat("down"))
    first = await start_host("m1", {"predict": lambda _: "up"})
    second = await start_host("m2", {"predict": lambda _: next(answers)})
    node = await start_coordinator(require=2, call_timeout_s=2.0, limits=Limits(failures=0, timeouts=0))

    await node.send({})
    for _ in range(20):
        await node.clock.advance(0.5)
    await node.settled()

    assert told(node.outputs()[0]) == {"m1": "up", "m2": "down"}
    ids = {headers[CALL_ID_HEADER] for host in (first, second) for headers in host.headers}
    assert len(ids) == 1
    assert len(second.headers) == 2  # one delivery has left it out after its timeout


async def test_too_few_successes_for_ever_are_a_dead_letter_that_names_them(
    start_host: StartHost, start_coordinator: StartCoordinator
) -> None:
    await start_host("m1", {"predict": lambda _: "up"})
    await start_host("m2", {"predict": lambda _: 1 / 0})
    node = await start_coordinator(require=2, limits=Limits(failures=0, timeouts=0))

    await node.send({})
    for _ in range(20):
        await node.clock.advance(0.5)
    await node.settled()

    letter = node.the_dead_letter()
    assert letter.reason == "failed"
    assert "1 of 2 models succeeded, 2 have to (m2: MODEL_FAILED" in letter.error


async def test_two_messages_of_one_request_are_two_calls(
    start_host: StartHost, start_coordinator: StartCoordinator
) -> None:
    host = await start_host("m1", {"predict": lambda data: data})
    node = await start_coordinator()

    await node.send("one", request_id="same")
    await node.send("two", request_id="same")
    await node.settled()

    assert [told(output) for output in node.outputs()] == [{"m1": "one"}, {"m1": "two"}]
    assert len({headers[CALL_ID_HEADER] for headers in host.headers}) == 2


async def test_an_answer_without_a_form_in_json_is_the_failure_of_its_model_alone(
    start_host: StartHost, start_coordinator: StartCoordinator
) -> None:
    await start_host("m1", {"predict": lambda _: float("nan")})
    await start_host("m2", {"predict": lambda _: 1.5})
    node = await start_coordinator(require=1)

    await node.send({})
    await node.settled()

    (output,) = node.outputs()
    assert (output["m1"]["status"], output["m1"]["detail"]) == ("FAILED", "DECODE: nan has no form in JSON")
    assert output["m2"]["result"] == 1.5


FUNCTIONS = """
def arguments(model, data):
    if model.model_id == "m3":
        raise KeyError("nothing for it")
    return [model.model_id, data["n"]], {"by": 2}

def vote(results, data):
    answers = sorted(entry["result"] for entry in results.values() if entry["status"] == "SUCCESS")
    return {"answers": answers, "n": data["n"]}

async def later(results, data):
    return len(results)

def nothing(results, data):
    return None
"""


async def test_functions_of_the_user_make_arguments_and_output(
    tmp_path: Path, start_host: StartHost, start_coordinator: StartCoordinator
) -> None:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    for model_id in ("m1", "m2", "m3"):
        await start_host(model_id, {"predict": lambda name, number, by: f"{name}:{number * by}"})
    node = await start_coordinator(
        [ModelCall(method="predict")], arguments="functions.py:arguments", aggregate="functions.py:vote"
    )

    await node.send({"n": 4})
    await node.settled()

    assert node.outputs() == [{"answers": ["m1:8", "m2:8"], "n": 4}]


@pytest.mark.parametrize(("function", "outputs"), [("later", [0]), ("nothing", [])])
async def test_an_aggregation_may_be_awaited_and_may_send_nothing(
    tmp_path: Path, start_coordinator: StartCoordinator, function: str, outputs: list[Any]
) -> None:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    node = await start_coordinator(aggregate=f"functions.py:{function}")

    await node.send({})
    await node.settled()

    assert node.outputs() == outputs


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("", "has no function 'vote'; define vote\\(results, data\\)"),
        ("vote = 5", "has no function 'vote'"),
        ("def vote(results): ...", "expected vote\\(results, data\\): too many positional arguments"),
        ("import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
    ],
)
def test_a_function_that_is_missing_or_does_not_fit_is_refused(tmp_path: Path, code: str, what: str) -> None:
    (tmp_path / "voting.py").write_text(code)
    spec = ModelsSpec(cluster="birds", base_class="a.B", calls=(PREDICT,), aggregate="voting.py:vote")

    with pytest.raises(HandlerLoadError, match=what):
        load_functions(spec, tmp_path)


async def test_predictions_are_saved_once_for_each_model(
    start_host: StartHost, start_coordinator: StartCoordinator
) -> None:
    await start_host("m1", {"predict": lambda _: {"up": 0.5}})
    await start_host("m2", {"predict": lambda _: 1 / 0})
    node = await start_coordinator(predictions=True)
    await node.run_writer()

    await node.send({})
    await node.settled()

    documents = await node.process._stores.documents.find(COLLECTION, {"error": "missing_values"})
    saved = {document["extra"]["model"]: document for document in documents}
    assert len(documents) == 2
    assert saved["m1"]["predictedValue"] == '{"up":0.5}'
    assert saved["m1"]["extra"]["cluster"] == CLUSTER
    assert saved["m1"]["extra"]["method"] == "predict"
    assert (saved["m2"]["predictedValue"], saved["m2"]["extra"]["status"]) == ("", "FAILED")


async def test_a_coordinator_that_cannot_go_on_ends_its_node(start_coordinator: StartCoordinator) -> None:
    node = await start_coordinator()

    await node.bus.close()

    with pytest.raises(BusClosedError):
        await node.process.failed
