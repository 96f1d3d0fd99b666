"""Who can be called: models that come, go, are replaced, renamed, restarted, reported and tried again."""

import asyncio
import logging
from typing import Any

import pytest

from runtime.bus.presence import EXPIRY_S
from runtime.clock import settle
from runtime.errors import BusClosedError, InvalidCoordinatorUsageError
from runtime.models import DynamicSubclassModelRunner, KwArgument, ModelConcurrentRunner, ModelRunner
from runtime.models.cluster import FIRST_RETRY_S, MAX_RETRY_S
from runtime.models.wire import HEALTH, REPORT, SETUP, HostState, ServiceError, StatusCode
from runtime.spec import names
from test.support.coordinator import BASE, Stage
from test.support.fake_host import CLUSTER, HANG, Answered, Refused

Runner = ModelConcurrentRunner


def tables(runner: Runner) -> tuple[list[str], list[str], list[str]]:
    """Return the ids of models that run, are pending, and are unusable."""
    cluster = runner.model_cluster
    return sorted(cluster.models_run), sorted(cluster.models_pending), sorted(cluster.models_unusable)


def fails(error: Exception) -> Any:
    def method(*_: Any) -> Any:
        raise error

    return method


# --- joining and leaving ---


async def test_init_sets_up_every_model_that_is_there(stage: Stage) -> None:
    hosts = [await stage.host(f"m{number}") for number in range(5)]

    runner = await stage.coordinator(instance_args=[7], instance_kwargs={"name": "x"})

    assert tables(runner) == (["m0", "m1", "m2", "m3", "m4"], [], [])
    for host in hosts:
        [setup] = host.setups
        assert setup.className == BASE
        assert [argument.position for argument in setup.instanceArguments] == [1]
        assert [keyword.keyword for keyword in setup.instanceKwArguments] == ["name"]


async def test_models_join_and_leave_between_calls(stage: Stage) -> None:
    runner = await stage.coordinator()
    assert await stage.call(runner) == {}

    host = await stage.host("m1")
    assert list(await stage.call(runner)) == ["m1"]
    await host.stop()
    await settle()

    assert await stage.call(runner) == {}
    assert tables(runner) == ([], [], [])


async def test_the_user_is_told_who_joins_and_leaves(stage: Stage) -> None:
    runner = stage.make()
    told: list[tuple[str, str]] = []
    runner.model_cluster.on_join = lambda model: told.append(("join", model.model_id))
    runner.model_cluster.on_leave = lambda model: told.append(("leave", model.model_id))
    await runner.init()

    host = await stage.host("m1")
    await host.stop()
    await settle()

    assert told == [("join", "m1"), ("leave", "m1")]


async def test_a_listener_that_fails_harms_nothing(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    runner = stage.make()
    runner.model_cluster.on_join = lambda model: [][0]
    await runner.init()

    await stage.host("m1")

    assert tables(runner) == (["m1"], [], [])
    assert [record.exc_info is not None for record in caplog.records] == [True]


async def test_one_hung_model_holds_up_neither_init_nor_a_join(stage: Stage) -> None:
    """An upstream flaw: events were handled one by one, each to its end."""
    await stage.host("m1")
    hung = stage.hosts["m1.d1"]
    hung.silent.add(SETUP)
    await stage.host("m2")
    runner = stage.make()
    started_s = stage.clock.monotonic()

    await stage.passing(runner.init(ready_timeout=3), 4)
    assert 3 <= stage.clock.monotonic() - started_s < 3.5
    assert tables(runner) == (["m2"], ["m1"], [])
    await stage.host("m3")

    assert tables(runner) == (["m2", "m3"], ["m1"], [])


async def test_a_late_model_joins_when_it_is_ready(stage: Stage) -> None:
    host = await stage.host("m1")
    host.silent.add(SETUP)
    runner = stage.make()
    await stage.passing(runner.init(ready_timeout=1), 2)

    host.silent.clear()
    await stage.until(lambda: tables(runner) == (["m1"], [], []), 120)


@pytest.mark.parametrize("state", [HostState.INITIALIZING, HostState.RECOVERING, HostState.STOPPING])
async def test_only_a_running_model_is_called(stage: Stage, state: HostState) -> None:
    host = await stage.host("m1")
    runner = await stage.coordinator()

    await host.tell(state)
    await settle()
    assert await stage.call(runner) == {}
    await host.tell(HostState.RUNNING)
    await stage.until(lambda: tables(runner)[0] == ["m1"])

    assert list(await stage.call(runner)) == ["m1"]


async def test_a_model_that_recovers_is_set_up_again(stage: Stage) -> None:
    host = await stage.host("m1")
    runner = await stage.coordinator()
    [model] = runner.model_cluster.models_run.values()

    await host.tell(HostState.RECOVERING)
    await settle()
    assert tables(runner) == ([], ["m1"], [])
    await host.restart_child()
    await host.tell(HostState.RUNNING)
    await settle()

    assert runner.model_cluster.models_run == {"m1": model}
    assert len(host.setups) == 2


async def test_a_changed_instance_is_set_up_before_the_next_call(stage: Stage) -> None:
    host = await stage.host("m1")
    runner = await stage.coordinator()

    await host.restart_child()
    await host.tell()
    await settle()

    assert len(host.setups) == 2
    await stage.call(runner)
    assert host.called == ["predict"]


async def test_a_failed_host_is_unusable_with_its_reason(stage: Stage) -> None:
    host = await stage.host("m1")
    runner = await stage.coordinator()

    host.reason = "restarts are used up"
    await host.tell(HostState.FAILED)
    await settle()

    assert tables(runner) == ([], [], ["m1"])
    assert runner.model_cluster.models_unusable["m1"].reason == "restarts are used up"


async def test_a_rename_changes_the_runner_in_place(stage: Stage) -> None:
    host = await stage.host("m1")
    runner = await stage.coordinator()
    [model] = runner.model_cluster.models_run.values()

    host.name, host.infos = "beta", {"owner": "ann"}
    await host.tell()
    await settle()

    assert runner.model_cluster.models_run == {"m1": model}
    assert (model.model_name, model.infos, len(host.setups)) == ("beta", {"owner": "ann"}, 1)


async def test_a_newer_deployment_replaces_the_older_one_once_it_is_ready(stage: Stage) -> None:
    old = await stage.host("m1")
    runner = await stage.coordinator()
    [old_model] = runner.model_cluster.models_run.values()
    await stage.clock.advance(1)
    new = await stage.host("m1", {"predict": lambda: "new"}, deployment="d2")

    results = await stage.call(runner)

    [model] = runner.model_cluster.models_run.values()
    assert model is not old_model
    assert model.deployment_id == "d2"
    assert results["m1"].result == "new"
    assert (len(new.setups), old_model.closed, old.called) == (1, True, [])


async def test_the_older_deployment_is_called_while_the_newer_is_in_setup(stage: Stage) -> None:
    await stage.host("m1", {"predict": lambda: "old"})
    runner = await stage.coordinator()
    await stage.clock.advance(1)
    new = await stage.host("m1", {"predict": lambda: "new"}, deployment="d2", refusals={SETUP: Refused(429)})

    meanwhile = await stage.call(runner)
    assert tables(runner) == (["m1"], ["m1"], [])
    new.refusals.clear()
    await stage.until(lambda: tables(runner) == (["m1"], [], []))

    assert meanwhile["m1"].result == "old"
    assert (await stage.call(runner))["m1"].result == "new"


async def test_what_an_older_deployment_tells_is_ignored(stage: Stage) -> None:
    await stage.host("m1")
    await stage.clock.advance(1)
    new = await stage.host("m1", deployment="d2")
    runner = await stage.coordinator()
    old = stage.hosts["m1.d1"]

    for state in (HostState.RUNNING, HostState.FAILED, HostState.STOPPED):
        await old.tell(state)
        await settle()

    assert runner.model_cluster.models_run["m1"].deployment_id == "d2"
    assert tables(runner) == (["m1"], [], [])
    assert len(new.setups) == 1


async def test_which_deployment_is_newer_does_not_depend_on_the_clocks_of_hosts(stage: Stage) -> None:
    await stage.host("m1", clock_is_ahead_ms=3_600_000)
    runner = await stage.coordinator()
    await stage.clock.advance(5)

    await stage.host("m1", deployment="d2")
    await settle()

    assert runner.model_cluster.models_run["m1"].deployment_id == "d2"


async def test_a_call_of_a_replaced_deployment_ends(stage: Stage) -> None:
    await stage.host("m1", {"predict": lambda: HANG})
    runner = await stage.coordinator()
    [model] = runner.model_cluster.models_run.values()
    calling = asyncio.create_task(runner.call("predict", timeout=60))
    await stage.clock.advance(1)

    await stage.host("m1", deployment="d2")
    await settle()

    assert calling.done()
    assert (await calling)[model].detail == "CLOSED: a newer deployment has replaced it"


async def test_a_model_that_dies_is_gone_after_the_expiry(stage: Stage) -> None:
    host = await stage.host("m1")
    runner = await stage.coordinator()

    host.bus.kill()  # type: ignore[attr-defined]  # of a bus in memory
    await stage.clock.advance(EXPIRY_S + 0.1)

    assert tables(runner) == ([], [], [])


async def test_foreign_keys_in_the_bucket_are_passed_over(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    runner = await stage.coordinator()
    bucket = await stage.broker.connect().expiring_key_value(names.PRESENCE_BUCKET, ttl_s=EXPIRY_S)
    record = b'{"kind":"model","name":"x","instance":"d","version":"1","host":"h","pid":1,"started_ms":1}'

    for _ in range(3):
        await bucket.put(f"model.{CLUSTER}.x.d", record)
        await settle()

    assert tables(runner) == ([], [], [])
    assert len(caplog.records) == 1


# --- setup ---


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (StatusCode.BAD_IMPLEMENTATION, "BAD_IMPLEMENTATION", "no class"),
        (StatusCode.SETUP_FAILED, "MULTIPLE_FAILED", "ValueError: no weights"),
    ],
)
async def test_a_setup_that_fails_is_reported_and_the_model_stays_out(
    stage: Stage, status: str, code: str, reason: str
) -> None:
    host = await stage.host("m1")
    host.setup_status = (status, reason)

    runner = await stage.coordinator()
    await stage.until(lambda: bool(host.reports))

    assert tables(runner) == ([], [], ["m1"])
    [report] = host.reports
    assert (report["failure_code"], report["failure_reason"]) == (code, f"{status}: {reason}")
    assert report["coordinator"]


async def test_a_model_that_nobody_answers_for_is_reported_as_unreachable(stage: Stage) -> None:
    host = await stage.host("m1")
    host.refusals[SETUP] = Refused(503)

    runner = await stage.coordinator()
    await stage.until(lambda: bool(host.reports), 60)

    assert tables(runner)[2] == ["m1"]
    assert [report["failure_code"] for report in host.reports] == ["CONNECTION_FAILED"]


async def test_a_setup_that_is_refused_as_forbidden_is_reported_at_once(stage: Stage) -> None:
    host = await stage.host("m1")
    host.refusals[SETUP] = Refused(ServiceError.REFUSED)

    runner = await stage.coordinator()
    await settle()

    assert tables(runner)[2] == ["m1"]
    assert [report["failure_code"] for report in host.reports] == ["CONNECTION_FAILED"]


async def test_a_busy_host_is_asked_again_until_it_is_free(stage: Stage) -> None:
    host = await stage.host("m1")
    host.refusals[SETUP] = Refused(ServiceError.BUSY)
    runner = stage.make()
    await stage.passing(runner.init(ready_timeout=1), 2)
    await stage.clock.advance(300)
    assert tables(runner) == ([], ["m1"], [])

    host.refusals.clear()
    await stage.until(lambda: tables(runner) == (["m1"], [], []))

    assert host.reports == []


async def test_what_a_host_does_not_understand_is_raised_by_init(stage: Stage) -> None:
    """An upstream flaw: errors of the coordinator were only logged."""
    host = await stage.host("m1")
    host.setup_status = (StatusCode.INVALID_ARGUMENT, "give module.Class")
    runner = stage.make()

    with pytest.raises(InvalidCoordinatorUsageError, match="give module"):
        await stage.passing(runner.init())

    assert host.reports == []


async def test_what_a_late_host_does_not_understand_is_raised_by_sync(stage: Stage) -> None:
    runner = await stage.coordinator()
    syncing = asyncio.create_task(runner.sync())
    host = await stage.host("m1")
    host.setup_status = (StatusCode.INVALID_ARGUMENT, "give module.Class")
    await host.restart_child()
    await host.tell()

    with pytest.raises(InvalidCoordinatorUsageError, match="give module"):
        await stage.passing(syncing)


async def test_a_model_that_another_coordinator_holds_is_left_out_and_tried_again(stage: Stage) -> None:
    host = await stage.host("m1")
    host.setup_status = (StatusCode.FAILED_PRECONDITION, "held as another.Class")
    runner = await stage.coordinator()
    assert tables(runner) == ([], [], ["m1"])

    host.setup_status = (StatusCode.SUCCESS, "")
    await stage.until(lambda: tables(runner) == (["m1"], [], []), FIRST_RETRY_S + 1)

    assert host.reports == []


# --- penalties and reports ---


async def test_a_model_that_fails_too_often_is_reported_once(stage: Stage) -> None:
    """An upstream flaw: the same report again and again."""
    host = await stage.host("m1", {"predict": fails(ValueError("no"))})
    await stage.host("m2")
    runner = await stage.coordinator(max_consecutive_failures=2)

    for _ in range(6):
        results = await stage.call(runner)

    assert list(results) == ["m2"]
    assert tables(runner) == (["m2"], [], ["m1"])
    assert len(host.called) == 3
    [report] = host.reports
    assert (report["failure_code"], report["failure_reason"]) == ("MULTIPLE_FAILED", "MODEL_FAILED: ValueError: no")


async def test_a_missing_method_is_reported_at_once(stage: Stage) -> None:
    host = await stage.host("m1", {"predict": fails(Answered(StatusCode.BAD_IMPLEMENTATION, "no method"))})
    runner = await stage.coordinator()

    await stage.call(runner)
    await stage.call(runner)

    assert [report["failure_code"] for report in host.reports] == ["BAD_IMPLEMENTATION"]
    assert len(host.called) == 1


async def test_a_refusal_of_one_model_leaves_the_other_results(stage: Stage) -> None:
    """An upstream flaw: one model's auth error lost all results."""
    host = await stage.host("m1", {"predict": fails(Refused(ServiceError.REFUSED))})
    await stage.host("m2", {"predict": lambda: 7})
    runner = await stage.coordinator()

    results = await stage.call(runner)

    assert results["m2"].result == 7
    assert results["m1"].detail == "AUTH: refused"
    assert [report["failure_code"] for report in host.reports] == ["CONNECTION_FAILED"]


async def test_after_a_timeout_a_model_is_skipped_and_then_called_again(stage: Stage) -> None:
    host = await stage.host("m1", {"predict": lambda: HANG})
    runner = await stage.coordinator(max_consecutive_timeouts=10)

    details = [(await stage.call(runner, timeout=0.5))["m1"].detail.split(":")[0] for _ in range(8)]

    # One timeout misses one call, two miss one, three miss two.
    assert details == [
        "DEADLINE_EXCEEDED", "SKIPPED", "DEADLINE_EXCEEDED", "SKIPPED", "DEADLINE_EXCEEDED", "SKIPPED", "SKIPPED",
        "DEADLINE_EXCEEDED",
    ]  # fmt: skip
    assert len(host.called) == 4


async def test_only_real_timeouts_stop_a_model(stage: Stage) -> None:
    """An upstream flaw: skipped calls were counted, so that a model was stopped after few real timeouts."""
    host = await stage.host("m1", {"predict": lambda: HANG})
    runner = await stage.coordinator(max_consecutive_timeouts=3)

    for _ in range(20):
        await stage.call(runner, timeout=0.5)

    assert len(host.called) == 4
    [report] = host.reports
    assert (report["failure_code"], report["failure_reason"]) == (
        "MULTIPLE_TIMEOUT",
        "DEADLINE_EXCEEDED: no answer within 0.5 s",
    )


async def test_the_first_success_clears_all_penalties(stage: Stage) -> None:
    host = await stage.host("m1", {"predict": lambda: HANG if len(host.called) < 3 else 1})
    runner = await stage.coordinator(max_consecutive_timeouts=10)

    while len(host.called) < 3:
        results = await stage.call(runner, timeout=0.5)

    assert results["m1"].result == 1
    model = runner.model_cluster.models_run["m1"]
    assert (model.consecutive_failures, model.consecutive_timeouts) == (0, 0)
    assert (await stage.call(runner))["m1"].result == 1


async def test_a_busy_model_is_penalised_as_for_a_timeout(stage: Stage) -> None:
    await stage.host("m1", {"predict": fails(Refused(ServiceError.BUSY))})
    runner = await stage.coordinator()

    await stage.call(runner)

    assert runner.model_cluster.models_run["m1"].consecutive_timeouts == 1


async def test_a_timeout_of_a_healthy_model_only_probes_it(stage: Stage) -> None:
    host = await stage.host("m1", {"predict": lambda: HANG})
    runner = await stage.coordinator()

    await stage.call(runner)

    assert (host.probes, len(host.setups)) == (1, 1)
    assert tables(runner)[0] == ["m1"]


@pytest.mark.parametrize("illness", ["dead child", "silent", "recovering"])
async def test_a_model_whose_host_is_not_well_is_set_up_again(stage: Stage, illness: str) -> None:
    host = await stage.host("m1", {"predict": lambda: HANG})
    runner = await stage.coordinator()
    if illness == "dead child":
        host.child_alive = False
    elif illness == "silent":
        host.silent.add(HEALTH)
    else:
        host.refusals[HEALTH] = Refused(503)

    await stage.call(runner)
    await stage.until(lambda: len(host.setups) == 2)

    await stage.until(lambda: tables(runner) == (["m1"], [], []))


async def test_a_model_that_is_not_reported_is_left_out_and_tried_again(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """An upstream flaw: `report_failure=False` kept a broken model in the call set."""
    host = await stage.host("m1", {"predict": fails(ValueError("no"))})
    runner = await stage.coordinator(max_consecutive_failures=1, report_failure=False)

    with caplog.at_level(logging.WARNING):
        waits = [await self_wait(stage, runner) for _ in range(7)]

    assert host.reports == []
    assert waits == [30, 60, 120, 240, 480, 600, 600]
    assert max(waits) == MAX_RETRY_S
    assert {getattr(record, "action", "") for record in caplog.records} == {"unreported"}


async def self_wait(stage: Stage, runner: Any) -> float:
    """Let a model fail until it is left out; return the seconds until it is back."""
    while "m1" in runner.model_cluster.models_run:
        await stage.call(runner)
    assert tables(runner) == ([], [], ["m1"])
    left_s = stage.clock.monotonic()
    await stage.until(lambda: "m1" in runner.model_cluster.models_run, 700)
    return round(stage.clock.monotonic() - left_s)


async def test_a_new_instance_gives_a_model_another_chance(stage: Stage) -> None:
    host = await stage.host("m1", {"predict": fails(ValueError("no"))})
    runner = await stage.coordinator(max_consecutive_failures=1)
    for _ in range(2):
        await stage.call(runner)
    assert tables(runner)[2] == ["m1"]

    host.methods["predict"] = lambda: 7
    await host.restart_child()
    await host.tell()
    await settle()

    assert (await stage.call(runner))["m1"].result == 7


async def test_a_report_is_delivered_after_nats_was_away(stage: Stage) -> None:
    host = await stage.host("m1", {"predict": fails(Answered(StatusCode.BAD_IMPLEMENTATION, "none"))})
    host.silent.add(REPORT)
    runner = await stage.coordinator()
    await stage.call(runner)

    stage.broker.pause()
    await stage.clock.advance(20)
    host.silent.clear()
    stage.broker.resume()
    await stage.until(lambda: bool(host.reports))
    await stage.clock.advance(60)

    assert [report["failure_code"] for report in host.reports] == ["BAD_IMPLEMENTATION"]


async def test_the_list_is_the_true_one_again_after_nats_was_away(stage: Stage) -> None:
    gone, kept = await stage.host("m1"), await stage.host("m2")
    runner = await stage.coordinator()

    stage.broker.pause()
    await stage.clock.advance(10)
    assert tables(runner) == ([], [], [])
    gone.bus.kill()  # type: ignore[attr-defined]  # of a bus in memory
    stage.broker.resume()
    await stage.host("m3")
    await stage.until(lambda: tables(runner) == (["m2", "m3"], [], []))

    assert sorted(await stage.call(runner)) == ["m2", "m3"]
    assert len(kept.setups) == 2


# --- life ---


async def test_sync_runs_until_close(stage: Stage) -> None:
    runner = await stage.coordinator()
    syncing = asyncio.create_task(runner.sync())
    await settle()
    assert not syncing.done()

    await stage.passing(runner.close())

    await stage.passing(syncing)


async def test_sync_raises_when_the_connection_is_gone_for_good(stage: Stage) -> None:
    bus = stage.broker.connect()
    runner = await stage.coordinator(connection=bus)
    syncing = asyncio.create_task(runner.sync())
    await settle()

    bus.kill()

    with pytest.raises(BusClosedError):
        await stage.passing(syncing)
    await stage.host("m1")


async def test_close_lets_a_call_end_and_keeps_nothing(stage: Stage) -> None:
    await stage.host("m1", {"predict": lambda: HANG})
    tasks = len(asyncio.all_tasks())
    bus = stage.broker.connect()
    runner = await stage.coordinator(connection=bus)
    calling = asyncio.create_task(runner.call("predict", timeout=60))
    await settle()

    await stage.passing(runner.close())
    await stage.passing(runner.close())

    [result] = (await calling).values()
    assert result.detail == "CLOSED: the coordinator is closed"
    await stage.clock.advance(1)
    assert len(asyncio.all_tasks()) == tasks
    assert bus.online_s > 0  # it is the user's


async def test_it_is_a_context_too(stage: Stage) -> None:
    await stage.host("m1")

    async with stage.make() as runner:
        assert tables(runner)[0] == ["m1"]

    with pytest.raises(InvalidCoordinatorUsageError):
        await runner.call("predict")


async def test_a_derivation_makes_its_own_runners_and_inherits_the_rest(stage: Stage) -> None:
    class Birds(ModelConcurrentRunner):
        made = 0

        def create_model_runner(self, **kwargs: Any) -> ModelRunner:
            self.made += 1
            return DynamicSubclassModelRunner(BASE, [], [], **kwargs)

        async def fly(self, height: int) -> dict[str, Any]:
            results = await self.call_models("fly", ([height], []))
            return {model.model_id: result.result for model, result in results.items()}

    await stage.host("m1", {"fly": lambda height: height + 1})
    await stage.host("m2", {"fly": lambda height: HANG})
    runner = Birds(timeout=1, crunch_id=CLUSTER, connection=stage.broker.connect(), clock=stage.clock)
    await stage.passing(runner.init())

    assert await stage.passing(runner.fly(7)) == {"m1": 8, "m2": None}
    assert runner.made == 2
    assert runner.model_cluster.models_run["m2"].consecutive_timeouts == 1
    await stage.passing(runner.close())


def test_an_abstract_runner_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="create_model_runner"):
        ModelConcurrentRunner(timeout=1, crunch_id=CLUSTER)  # type: ignore[abstract]  # that is the mistake


def test_instance_arguments_are_checked_when_the_runner_is_made(stage: Stage) -> None:
    with pytest.raises(InvalidCoordinatorUsageError):
        stage.make(instance_kwargs=[KwArgument(keyword="no name")])


async def test_a_thousand_joins_and_leaves_leave_nothing_behind(stage: Stage) -> None:
    host = await stage.host("m1")
    runner = await stage.coordinator()
    tasks = len(asyncio.all_tasks())

    for number in range(200):
        await host.stop()
        host = await stage.host("m1", deployment=f"d{number + 2}")
        stage.hosts = {f"m1.{host.deployment}": host}
    await settle()

    assert tables(runner) == (["m1"], [], [])
    assert len(runner.model_cluster._hosts) == 1
    assert len(asyncio.all_tasks()) == tasks
    assert len(runner._background) == 0


async def test_a_call_during_a_setup_waits_for_it(stage: Stage) -> None:
    host = await stage.host("m1", {"predict": lambda: 7})
    host.refusals[SETUP] = Refused(ServiceError.BUSY)
    runner = stage.make()
    await stage.passing(runner.init(ready_timeout=0.5), 1)
    pending = list(runner.model_cluster.models_pending.values())
    calling = asyncio.create_task(runner.call("predict", timeout=30, model_runs=pending))
    await settle()

    host.refusals.clear()
    [result] = (await stage.passing(calling, 30)).values()

    assert result.result == 7
