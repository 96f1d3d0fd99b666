"""Calls of all models: every row of the failure table that is the coordinator's, and none of upstream's flaws."""

import asyncio
import json
import os
from typing import Any

import pytest

from runtime.bus.bodies import CLAIM_HEADER
from runtime.clock import settle
from runtime.errors import EncodingError, InvalidCoordinatorUsageError, MessageTooLargeError
from runtime.models import (
    Argument,
    DynamicSubclassModelConcurrentRunner,
    KwArgument,
    ModelPredictResult,
    Outcome,
    Variant,
    VariantType,
    call_requests,
    encode_data,
)
from runtime.models.wire import CALL, SETUP, HostState, ServiceError, StatusCode
from runtime.proto.models import CallRequest
from test.support.coordinator import BASE, Stage
from test.support.fake_host import HANG, Answered, Refused

SUCCESS, FAILED, TIMEOUT = ModelPredictResult.Status


def raises(error: Exception) -> Any:
    """Return a method that raises."""

    def method(*_: Any) -> Any:
        raise error

    return method


def shape(result: ModelPredictResult) -> tuple[ModelPredictResult.Status, str, str]:
    """Return status, reason and outcome."""
    return result.status, result.detail.partition(":")[0], result.outcome


async def test_one_call_reaches_every_model_and_has_one_entry_for_each(stage: Stage) -> None:
    for number in range(10):
        await stage.host(f"m{number}", {"predict": lambda number=number: number})
    runner = await stage.coordinator()

    results = await stage.passing(runner.call("predict"))

    assert {model.model_id: result.result for model, result in results.items()} == {f"m{n}": n for n in range(10)}
    assert {result.status for result in results.values()} == {SUCCESS}
    assert all(result.model_runner is model for model, result in results.items())
    assert {result.model_time_us for result in results.values()} == {1500}


async def test_the_model_that_took_longest_is_asked_first(stage: Stage) -> None:
    asked: list[str] = []
    for model_id in ("m1", "m2", "m3"):
        await stage.host(model_id, {"predict": lambda model_id=model_id: asked.append(model_id)})
    runner = await stage.coordinator()
    models = runner.model_cluster.models_run
    for model_id, time_us in (("m1", 200), ("m2", 300), ("m3", 100)):
        models[model_id].last_time_us = time_us

    results = await stage.call(runner)

    assert asked == ["m2", "m1", "m3"]
    # Time stood still, and the next call goes by that.
    assert {models[model_id].last_time_us for model_id in results} == {0}


async def test_the_printed_result_begins_as_upstream_prints_it(stage: Stage) -> None:
    await stage.host("m1", {"predict": lambda: 0.5})
    runner = await stage.coordinator()

    results = await stage.call(runner)

    model = runner.model_cluster.models_run["m1"]
    assert (
        repr(model) == "DynamicSubclassModelRunner(model_id='m1', model_name='M1', deployment_id='d1', state='running')"
    )
    assert str(results["m1"]).startswith(
        f"ModelPredictResult(model_runner={model!r}, result=0.5, status=<Status.SUCCESS: 'SUCCESS'>, exec_time_us="
    )


async def test_typed_arguments_reach_the_model(stage: Stage) -> None:
    host = await stage.host("m1", {"tick": lambda payload, horizon=0: None})
    runner = await stage.coordinator()
    argument = Argument(position=1, data=Variant(type=VariantType.JSON, value=encode_data(VariantType.JSON, {"a": 1})))
    keyword = KwArgument(keyword="horizon", data=Variant(type=VariantType.INT, value=encode_data(VariantType.INT, 3)))

    results = await stage.call(runner, "tick", arguments=([argument], [keyword]))

    assert host.arguments == [([{"a": 1}], {"horizon": 3})]
    assert results["m1"].status is SUCCESS
    assert results["m1"].result is None


async def test_plain_arguments_are_encoded_by_their_type(stage: Stage) -> None:
    host = await stage.host("m1", {"tick": lambda *_, **__: None})
    runner = await stage.coordinator()

    await stage.call(runner, "tick", args=[{"a": 1}, 2.5, "x", None], kwargs={"horizon": 3})

    assert host.arguments == [([{"a": 1}, 2.5, "x", None], {"horizon": 3})]


async def test_shared_arguments_are_encoded_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = [await stage.host(f"m{number}", {"tick": lambda _: None}) for number in range(5)]
    runner = await stage.coordinator()
    made: list[Any] = []

    def encode(**fields: Any) -> Any:
        made.append(fields)
        return CallRequest(**fields)

    monkeypatch.setattr(call_requests, "CallRequest", encode)

    await stage.call(runner, "tick", args=["payload"])

    assert len(made) == 1
    assert len({id(host.bodies[0]) for host in hosts}) == 1


async def test_a_function_gives_each_model_its_own_arguments(stage: Stage) -> None:
    hosts = [await stage.host(f"m{number}", {"tick": lambda **_: None}) for number in range(3)]
    runner = await stage.coordinator()

    await stage.call(runner, "tick", arguments=lambda model: ([], {"wealth": len(hosts), "me": model.model_id}))

    assert [host.arguments for host in hosts] == [[([], {"wealth": 3, "me": f"m{n}"})] for n in range(3)]


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        (lambda: [][0], "ARGUMENTS: IndexError: list index out of range"),
        (lambda: ([Argument(position=5)], []), "ARGUMENTS: InvalidCoordinatorUsageError: the positions of 1"),
        (lambda: ([object()], []), "ARGUMENTS: EncodingError: argument 1: builtins.object is no value"),
        (lambda: None, "ARGUMENTS: InvalidCoordinatorUsageError: arguments are a pair"),
    ],
)
async def test_when_the_argument_function_fails_only_that_models_entry_does(
    stage: Stage, fault: Any, detail: str
) -> None:
    for number in range(3):
        await stage.host(f"m{number}", {"tick": lambda: 1})
    runner = await stage.coordinator(max_consecutive_failures=1)

    for _ in range(3):
        results = await stage.call(
            runner, "tick", arguments=lambda model: fault() if model.model_id == "m1" else ([], [])
        )

    assert [results[f"m{n}"].status for n in range(3)] == [SUCCESS, FAILED, SUCCESS]
    assert results["m1"].detail.startswith(detail)
    assert shape(results["m1"])[1:] == ("ARGUMENTS", Outcome.INVALID)
    assert runner.model_cluster.models_run["m1"].consecutive_failures == 0
    assert stage.hosts["m1.d1"].called == []


async def test_an_empty_subset_calls_nobody(stage: Stage) -> None:
    """An upstream flaw: it called everybody."""
    host = await stage.host("m1")
    runner = await stage.coordinator()

    results = await stage.call(runner, model_runs=[])

    assert results == {}
    assert host.called == []


async def test_a_subset_is_called_alone(stage: Stage) -> None:
    hosts = [await stage.host(f"m{number}") for number in range(3)]
    runner = await stage.coordinator()
    chosen = [runner.model_cluster.models_run["m2"], runner.model_cluster.models_run["m0"]]

    results = await stage.call(runner, model_runs=chosen)

    assert list(results) == ["m2", "m0"]
    assert [host.called for host in hosts] == [["predict"], [], ["predict"]]


@pytest.mark.parametrize("hung", [1, 3])
async def test_hung_models_delay_neither_the_others_nor_the_caller(stage: Stage, hung: int) -> None:
    for number in range(10):
        await stage.host(f"m{number}", {"predict": lambda hangs=number < hung: HANG if hangs else 1})
    runner = await stage.coordinator()

    calling = asyncio.create_task(runner.call("predict", timeout=0.5))
    await settle()
    await stage.clock.advance(0.49)
    assert not calling.done()
    await stage.clock.advance(0.02)

    results = {model.model_id: result for model, result in (await calling).items()}
    assert [shape(results[f"m{n}"]) for n in range(hung)] == [(TIMEOUT, "DEADLINE_EXCEEDED", Outcome.TIMEOUT)] * hung
    assert [results[f"m{n}"].result for n in range(hung, 10)] == [1] * (10 - hung)
    assert 500_000 <= results["m0"].exec_time_us < 520_000
    assert results["m9"].exec_time_us < 1_000


@pytest.mark.parametrize(
    ("method", "expected", "text"),
    [
        (raises(ValueError("no data")), (FAILED, "MODEL_FAILED", Outcome.FAILED), "ValueError: no data"),
        (raises(Answered("UNKNOWN", "odd")), (FAILED, "MODEL_FAILED", Outcome.FAILED), "odd"),
        (
            raises(Answered(StatusCode.BAD_IMPLEMENTATION, "no such method")),
            (FAILED, "BAD_IMPLEMENTATION", Outcome.BAD_IMPLEMENTATION),
            "no such method",
        ),
        (raises(Answered(StatusCode.INVALID_ARGUMENT, "odd")), (FAILED, "INVALID", Outcome.INVALID), "odd"),
        (raises(Refused(ServiceError.BUSY, "another")), (TIMEOUT, "BUSY", Outcome.BUSY), "another"),
        (raises(Refused(ServiceError.LATE, "late")), (TIMEOUT, "DEADLINE_EXCEEDED", Outcome.TIMEOUT), "late"),
        (raises(Refused(ServiceError.REFUSED, "who?")), (FAILED, "AUTH", Outcome.AUTH), "who?"),
        (raises(Refused(ServiceError.INVALID, "what?")), (FAILED, "INVALID", Outcome.INVALID), "what?"),
        (raises(Refused(ServiceError.TOO_LARGE, "big")), (FAILED, "INVALID", Outcome.INVALID), "big"),
        (raises(Refused(503, "stopping")), (TIMEOUT, "UNAVAILABLE", Outcome.UNAVAILABLE), "stopping"),
    ],
)
async def test_an_end_has_status_reason_outcome_and_text(
    stage: Stage, method: Any, expected: tuple[Any, ...], text: str
) -> None:
    await stage.host("m1", {"predict": method})
    await stage.host("m2")
    runner = await stage.coordinator()

    results = await stage.call(runner)

    assert shape(results["m1"]) == expected
    assert results["m1"].detail == f"{expected[1]}: {text}"
    assert results["m1"].result is None
    assert results["m2"].status is SUCCESS


async def test_an_answer_that_cannot_be_read_fails_that_model_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await stage.host("m1")
    await stage.host("m2")
    runner = await stage.coordinator()
    monkeypatch.setattr(host, "_on_call", lambda _: b"\xff\xff")

    results = await stage.call(runner)

    assert shape(results["m1"]) == (FAILED, "DECODE", Outcome.FAILED)
    assert results["m2"].status is SUCCESS
    assert runner.model_cluster.models_run["m1"].consecutive_failures == 1


async def test_a_dead_model_costs_milliseconds_and_not_the_timeout(stage: Stage) -> None:
    """An upstream flaw: a model whose process was gone cost every call its full timeout."""
    host = await stage.host("m1")
    runner = await stage.coordinator()
    await host.unsubscribe()

    results = await runner.call("predict", timeout=60)

    [result] = results.values()
    assert shape(result) == (TIMEOUT, "UNAVAILABLE", Outcome.UNAVAILABLE)
    assert result.exec_time_us < 10_000
    assert result.model_runner.consecutive_timeouts == 1


async def test_a_model_that_leaves_during_the_call_ends_it_at_once(stage: Stage) -> None:
    host = await stage.host("m1", {"predict": lambda: HANG})
    runner = await stage.coordinator()
    [model] = runner.model_cluster.models_run.values()
    calling = asyncio.create_task(runner.call("predict", timeout=60))
    await settle()

    await host.stop()
    await settle()

    result = (await calling)[model]
    assert shape(result) == (TIMEOUT, "CLOSED", Outcome.UNAVAILABLE)
    assert model.consecutive_timeouts == 0


async def test_a_lost_connection_is_an_end_by_the_deadline_and_no_penalty(stage: Stage) -> None:
    await stage.host("m1", {"predict": lambda: HANG})
    runner = await stage.coordinator()
    calling = asyncio.create_task(runner.call("predict", timeout=4))
    await settle()

    stage.broker.pause()
    await stage.clock.advance(1)
    stage.broker.resume()
    await stage.clock.advance(3.1)

    assert calling.done()
    [result] = (await calling).values()
    assert shape(result) == (TIMEOUT, "CONNECTION_LOST", Outcome.UNAVAILABLE)
    assert result.model_runner.consecutive_timeouts == 0


async def test_a_host_that_lost_its_instance_is_set_up_and_called_within_the_same_call(stage: Stage) -> None:
    host = await stage.host("m1", {"predict": lambda: 7})
    await stage.host("m2")
    runner = await stage.coordinator()
    await host.restart_child()

    results = await stage.call(runner)

    assert results["m1"].result == 7
    assert len(host.setups) == 2
    assert host.called == ["predict", "predict"]
    # One id, so that a host that has answered is not asked twice: having no instance is no answer.
    assert len({headers["Krt-Call-Id"] for headers in host.headers}) == 1
    assert runner.model_cluster.models_run["m1"].consecutive_failures == 0


async def test_a_host_that_never_has_an_instance_does_not_hold_a_call_in_a_circle(stage: Stage) -> None:
    host = await stage.host("m1", {"predict": raises(Answered(StatusCode.FAILED_PRECONDITION, "none"))})
    runner = await stage.coordinator()

    results = await stage.call(runner)

    assert shape(results["m1"]) == (FAILED, "NOT_SET_UP", Outcome.FAILED)
    assert len(host.called) == 2


async def test_a_setup_that_hangs_ends_with_the_call(stage: Stage) -> None:
    host = await stage.host("m1")
    runner = await stage.coordinator()
    await host.restart_child()
    host.silent.add(SETUP)

    results = await stage.call(runner, timeout=1)

    assert shape(results["m1"]) == (TIMEOUT, "DEADLINE_EXCEEDED", Outcome.TIMEOUT)


async def test_the_deadline_and_one_call_id_go_to_all(stage: Stage) -> None:
    hosts = [await stage.host(f"m{number}") for number in range(3)]
    runner = await stage.coordinator()
    now_ms = stage.clock.time_ns() // 1_000_000

    await stage.call(runner, timeout=1.5)
    await stage.call(runner, timeout=1.5)

    assert {host.headers[0]["Krt-Deadline"] for host in hosts} == {str(now_ms + 1500)}
    assert len({host.headers[0]["Krt-Call-Id"] for host in hosts}) == 1
    assert len({headers["Krt-Call-Id"] for host in hosts for headers in host.headers}) == 2


async def test_a_call_that_may_be_repeated_carries_the_id_it_was_given(stage: Stage) -> None:
    host = await stage.host("m1")
    runner = await stage.coordinator()

    await stage.call(runner, call_id="request-7/0")

    assert host.headers[0]["Krt-Call-Id"] == "request-7/0"


async def test_the_deadline_is_shifted_for_a_host_whose_clock_is_wrong(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    ahead = await stage.host("m1", clock_is_ahead_ms=60_000)
    right = await stage.host("m2", clock_is_ahead_ms=500)
    runner = await stage.coordinator()
    await stage.clock.advance(10)
    now_ms = stage.clock.time_ns() // 1_000_000

    await stage.call(runner, timeout=2)

    assert int(ahead.headers[0]["Krt-Deadline"]) == now_ms + 62_000
    assert int(right.headers[0]["Krt-Deadline"]) == now_ms + 2_000
    assert [getattr(record, "action", "") for record in caplog.records] == ["clock"]


async def test_large_arguments_reach_all_models_as_one_object(stage: Stage) -> None:
    hosts = [await stage.host(f"m{number}", {"tick": lambda _: None}) for number in range(3)]
    for host in hosts:
        host.silent.add(CALL)
    runner = await stage.coordinator()

    calling = asyncio.create_task(runner.call("tick", args=[os.urandom(1_500_000).hex()]))
    async with asyncio.timeout(5):  # a thread compresses in vain, in real time
        await asyncio.gather(*(host.asked.wait() for host in hosts))
    await stage.passing(calling)

    [claim] = {host.requests[0].headers[CLAIM_HEADER] for host in hosts}
    [store] = stage.broker.object_stores.values()
    assert 3_000_000 < json.loads(claim)["size"] < 3_000_100
    assert 3_000_000 < store.size_bytes < 3_100_000


async def test_a_body_beyond_the_limit_is_refused_before_anything_is_sent(stage: Stage) -> None:
    host = await stage.host("m1", {"tick": lambda _: None})
    runner = await stage.coordinator(max_claim_bytes=2000)

    with pytest.raises(MessageTooLargeError, match="larger than 2,000"):
        await runner.call("tick", args=["x" * 3000])
    results = await stage.call(runner, "tick", arguments=lambda _: (["x" * 3000], []))

    assert shape(results["m1"]) == (FAILED, "ARGUMENTS", Outcome.INVALID)
    assert host.called == []


@pytest.mark.parametrize(
    "options",
    [
        {"method_name": ""},
        {"method_name": "no method"},
        {"method_name": 7},
        {"arguments": ([Argument(position=2)], [])},
        {"arguments": ([Argument(position=1), Argument(position=3)], [])},
        {"arguments": ([Argument(position=1), 7], [])},
        {"arguments": []},
        {"arguments": ([], [KwArgument(keyword="a"), KwArgument(keyword="a")])},
        {"arguments": ([], []), "args": [1]},
        {"args": "text"},
        {"kwargs": "text"},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("inf")},
        {"timeout": "2"},
        {"model_runs": ["m1"]},
        {"call_id": "a\nb"},
        {"call_id": "ä"},
    ],
    ids=str,
)
async def test_misuse_raises_and_sends_nothing(stage: Stage, options: dict[str, Any]) -> None:
    host = await stage.host("m1")
    runner = await stage.coordinator()

    with pytest.raises(InvalidCoordinatorUsageError):
        await runner.call(**{"method_name": "predict", **options})

    await settle()
    assert host.called == []
    assert runner.model_cluster.models_run["m1"].consecutive_failures == 0


async def test_an_async_argument_function_is_refused(stage: Stage) -> None:
    runner = await stage.coordinator()

    async def arguments(_: Any) -> Any:
        return [], []

    with pytest.raises(InvalidCoordinatorUsageError, match="make it a `def`"):
        await runner.call("tick", arguments=arguments)  # type: ignore[arg-type]  # that is the mistake


async def test_a_value_without_a_form_raises_and_sends_nothing(stage: Stage) -> None:
    host = await stage.host("m1", {"tick": lambda _: None})
    runner = await stage.coordinator()

    with pytest.raises(EncodingError):
        await runner.call("tick", args=[2**70])

    assert host.called == []


@pytest.mark.parametrize("name", ["TrackerBase", "", "a..B", "a.b:C", "a b.C", ".A"])
def test_a_class_name_that_is_none_is_refused_at_once(name: str) -> None:
    with pytest.raises(InvalidCoordinatorUsageError, match=r"package\.module\.Class"):
        DynamicSubclassModelConcurrentRunner(timeout=1, crunch_id="birds", base_classname=name)


@pytest.mark.parametrize("name", ["", "Bird Game", "a.b", "x" * 41])
def test_a_cluster_name_that_is_none_is_refused_at_once(name: str) -> None:
    with pytest.raises(InvalidCoordinatorUsageError, match="crunch_id"):
        DynamicSubclassModelConcurrentRunner(timeout=1, crunch_id=name, base_classname=BASE)


async def test_a_call_before_init_and_after_close_says_so(stage: Stage) -> None:
    early = stage.make()
    late = await stage.coordinator()
    await late.close()

    with pytest.raises(InvalidCoordinatorUsageError, match="init"):
        await early.call("predict")
    with pytest.raises(InvalidCoordinatorUsageError, match="closed"):
        await late.call("predict")
    with pytest.raises(InvalidCoordinatorUsageError, match="called before"):
        await late.init()


async def test_a_cancelled_call_leaves_the_coordinator_usable(stage: Stage) -> None:
    host = await stage.host("m1", {"predict": lambda: HANG if len(host.called) == 1 else 1})
    runner = await stage.coordinator()
    calling = asyncio.create_task(runner.call("predict"))
    await settle()

    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    results = await stage.call(runner)

    assert results["m1"].result == 1
    assert not runner._link.open_calls


async def test_one_model_is_called_on_the_users_own_schedule(stage: Stage) -> None:
    await stage.host("m1", {"predict": lambda: 7, "fail": raises(ValueError("no"))})
    runner = await stage.coordinator(max_consecutive_failures=1)
    model = runner.model_cluster.models_run["m1"]

    value, error = await stage.passing(model.call("predict", timeout=2))
    assert (value, error) == (7, None)
    for _ in range(5):
        value, error = await stage.passing(model.call("fail"))

    assert value is None
    assert str(error) == "MODEL_FAILED: ValueError: no"
    assert error is not None and error.status is FAILED
    assert model.consecutive_failures == 0


async def test_health_and_reset_of_one_model(stage: Stage) -> None:
    host = await stage.host("m1")
    runner = await stage.coordinator()
    model = runner.model_cluster.models_run["m1"]

    health = await model.health()
    ended = await model.reset()

    assert (health.state, health.instance, health.child_alive, health.is_good) == (HostState.RUNNING, 1, True, True)
    assert ended is None
    assert host.resets == 1


async def test_a_model_that_says_it_is_well_is_called_although_its_presence_is_late(stage: Stage) -> None:
    host = await stage.host("m1", {"predict": lambda: 7})
    runner = await stage.coordinator()
    model = runner.model_cluster.models_run["m1"]
    await host.tell(HostState.RECOVERING)
    await settle()
    assert not runner.model_cluster.models_run
    await host.restart_child()
    host.state = HostState.RUNNING

    health = await model.health()
    results = await stage.call(runner, model_runs=[model])

    assert health.is_good
    assert (results["m1"].result, len(host.setups)) == (7, 2)
    # The presence that comes then tells nothing new.
    await host.tell()
    assert (await stage.call(runner))["m1"].result == 7
    assert len(host.setups) == 2


async def test_a_thousand_calls_leave_nothing_behind(stage: Stage) -> None:
    await stage.host("m1")
    await stage.host("m2", {"predict": lambda: HANG})
    runner = await stage.coordinator(max_consecutive_timeouts=0)
    await stage.call(runner, timeout=0.1)
    kept = (len(asyncio.all_tasks()), len(stage.broker.router._subscriptions), len(runner._link.open_calls))

    for _ in range(1000):
        calling = asyncio.create_task(runner.call("predict", timeout=0.01))
        await settle()
        if not calling.done():
            await stage.clock.advance(0.02)
        assert len(await calling) == 2

    await settle()
    assert (len(asyncio.all_tasks()), len(stage.broker.router._subscriptions), len(runner._link.open_calls)) == kept
