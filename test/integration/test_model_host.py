"""Model hosts on a real NATS, with models that do everything that models should not."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.models import wire
from runtime.models.wire import HostState, ServiceError
from runtime.spec.model_host import QUARANTINED_EXIT_CODE
from test.support.model_host import BASE, Refused, RunningHost, deadline_in, hosted, write_model

StartHost = Callable[..., Awaitable[RunningHost]]


@pytest.fixture
async def start_host(nats_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[StartHost]:
    """Start a host: `start_host(kill_after_s=0)`; `model=` is the text of its module. It is running on return."""
    async with AsyncExitStack() as stack:

        async def start(state: HostState = HostState.RUNNING, model: str = "", **told: Any) -> RunningHost:
            written = write_model(tmp_path, model) if model else write_model(tmp_path)
            bus = await NatsBus.connect([nats_server.url], name="host")
            stack.push_async_callback(bus.close)
            client_bus = await NatsBus.connect([nats_server.url], name="coordinator")
            stack.push_async_callback(client_bus.close)
            host = await stack.enter_async_context(hosted(bus, client_bus, {**written, **told}))
            await host.until_state(state)
            return host

        yield start


@pytest.fixture
async def host(start_host: StartHost) -> RunningHost:
    """A host whose model is set up."""
    host = await start_host()
    assert await host.set_up() == ("SUCCESS", "")
    return host


# --- life ---


async def test_a_model_lives_from_setup_to_stop(start_host: StartHost) -> None:
    host = await start_host(infos={"owner": "ann"}, name="alpha")

    assert (await host.call("predict"))[0] == "FAILED_PRECONDITION"
    assert await host.set_up(BASE, 10) == ("SUCCESS", "")
    assert [await host.call("tick", {"x": 1}) for _ in range(3)] == [11, 12, 13]
    assert await host.call("predict", horizon=3) == {"count": 13, "horizon": 3}
    assert host.record is not None
    assert (host.record.name, host.record.infos, host.record.instance) == ("alpha", {"owner": "ann"}, 1)
    assert await host.tell(wire.STOP, grace_s=5) == {"accepted": True}

    assert await host.exit_code() == 0
    await host.until_gone()
    assert host.states[-4:] == ["running", "stopping", "stopped", "gone"]


async def test_a_reset_makes_a_new_instance_with_the_arguments_of_the_setup(start_host: StartHost) -> None:
    host = await start_host()
    assert await host.reset() == "FAILED_PRECONDITION"
    await host.set_up(BASE, start=5)
    await host.call("tick", {})

    assert await host.reset() == "SUCCESS"

    await host.until(lambda record: record.instance == 2)
    assert await host.call("tick", {}) == 6
    assert await host.set_up() == ("SUCCESS", "")
    assert await host.call("tick", {}) == 7


async def test_a_second_setup_keeps_the_instance(host: RunningHost) -> None:
    await host.call("tick", {})

    assert await host.set_up(BASE, 100) == ("SUCCESS", "")
    code, text = await host.set_up("game.tracker.Other")

    assert (code, BASE in text) == ("FAILED_PRECONDITION", True)
    assert await host.call("tick", {}) == 2


async def test_new_infos_are_told_while_it_runs(host: RunningHost) -> None:
    assert await host.tell(wire.INFOS, name="beta", infos={"owner": "bob"}) == {"accepted": True}

    record = await host.until(lambda record: record.name == "beta")
    assert (record.infos, record.instance) == ({"owner": "bob"}, 1)
    with pytest.raises(Refused, match="infos are"):
        await host.tell(wire.INFOS, name=1)


# --- setups that fail ---


@pytest.mark.parametrize(
    ("model", "base", "code", "text"),
    [
        ("import nothing_like_this", BASE, "BAD_IMPLEMENTATION", "model.py: ModuleNotFoundError: No module named"),
        ("x = 1", BASE, "BAD_IMPLEMENTATION", "no concrete subclass of game.tracker.Tracker"),
        ("", "Tracker", "INVALID_ARGUMENT", "write package.module.Class"),
        ("", "game.nowhere.Tracker", "BAD_IMPLEMENTATION", "game.nowhere.Tracker cannot be imported"),
        ("", "game.tracker.Nobody", "BAD_IMPLEMENTATION", "has no attribute 'Nobody'"),
        (
            "import game.tracker\nclass M(game.tracker.Tracker):\n  def __init__(self): 1 / 0\n"
            "  def tick(self, p): ...",
            BASE,
            "SETUP_FAILED",
            "model.M() failed: ZeroDivisionError: division by zero",
        ),
        (
            "import os, game.tracker\nclass M(game.tracker.Tracker):\n  def __init__(self): os._exit(4)\n"
            "  def tick(self, p): ...",
            BASE,
            "SETUP_FAILED",
            "the process has ended with exit code 4",
        ),
    ],
)
async def test_a_setup_that_fails_says_why(start_host: StartHost, model: str, base: str, code: str, text: str) -> None:
    host = await start_host(model=model)

    answered, message = await host.set_up(base)

    assert (answered, text in message) == (code, True), message


# --- calls that fail ---


@pytest.mark.parametrize(
    ("deed", "code", "text"),
    [
        ("raise", "MODEL_FAILED", "ValueError: no birds"),
        ("exit", "MODEL_FAILED", "SystemExit: 3"),
        ("object", "MODEL_FAILED", "the result of do() cannot be sent"),
    ],
)
async def test_what_a_method_raises_is_its_answer(host: RunningHost, deed: str, code: str, text: str) -> None:
    answered, message = await host.do(deed)

    assert (answered, text in message) == (code, True), message
    assert await host.call("tick", {}) == 1


async def test_a_missing_method_is_named_with_its_class(host: RunningHost) -> None:
    assert await host.call("fly") == ("BAD_IMPLEMENTATION", "model.Model has no method fly()")


async def test_keywords_go_where_they_are_taken(host: RunningHost, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        results = [await host.call("predict", horizon=2, unknown=1) for _ in range(2)]
        await host.call("tick", {}, unknown=1)

    assert [result["horizon"] for result in results] == [2, 2]
    assert caplog.text.count("predict() takes no keyword unknown") == 1
    assert "tick() takes no keyword" not in caplog.text


async def test_coroutine_methods_are_awaited(host: RunningHost) -> None:
    assert [await host.call("later") for _ in range(2)] == ["awaited", "awaited"]


async def test_what_a_model_prints_is_in_the_log_and_nowhere_else(
    host: RunningHost, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert await host.do("print") == "printed"
        assert await host.do("fork") == "parent"
        await host.do("raise")

    lines = [record.getMessage() for record in caplog.records if getattr(record, "action", "") == "model-output"]
    assert [line for line in lines if "tweet" in line] == ["tweet", "raw tweet"]
    assert "ValueError: no birds" in lines


async def test_a_model_sees_no_settings_and_knows_its_folders(
    start_host: StartHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRT_NATS_SERVER", "nats://user:secret@host")
    host = await start_host(resources=tmp_path)
    await host.set_up()

    environ = await host.do("environ")

    assert not any(name.startswith("KRT_") for name in environ)
    assert (environ["RESOURCE_DIRECTORY"], environ["CODE_DIRECTORY"]) == (str(tmp_path), str(tmp_path / "code"))


async def test_an_allocation_beyond_the_limit_fails_and_the_model_lives(start_host: StartHost) -> None:
    host = await start_host(memory_bytes=1 << 30)
    await host.set_up()

    code, text = await host.do("hoard")

    assert (code, "MemoryError" in text) == ("MODEL_FAILED", True)
    assert await host.call("tick", {}) == 1


async def test_bodies_larger_than_a_message_go_both_ways(host: RunningHost) -> None:
    incompressible = os.urandom(2 << 20).hex()

    assert await host.do("large") == "x" * (3 << 20)
    assert await host.call("echo", incompressible) == incompressible


async def test_a_body_that_the_models_memory_could_not_hold_is_refused(start_host: StartHost) -> None:
    host = await start_host(memory_bytes=64 << 20)

    with pytest.raises(Refused) as refused:
        await host.call("echo", "x" * (20 << 20))

    assert refused.value.code == ServiceError.INVALID


# --- one at a time ---


@pytest.mark.parametrize("deed", ["hang", "spin"])
async def test_health_is_told_while_a_model_holds_everything(host: RunningHost, deed: str) -> None:
    async with asyncio.TaskGroup() as tasks:
        calling = tasks.create_task(host.do(deed))
        health = await host.tell(wire.HEALTH)
        while not health["busy_for_ms"]:
            health = await host.tell(wire.HEALTH)

        assert (health["state"], health["instance"], health["child_alive"]) == ("running", 1, True)
        with pytest.raises(Refused) as refused:
            await host.call("predict")
        assert refused.value.code == ServiceError.BUSY
        assert await host.set_up() == ("SUCCESS", "")

        assert host.record is not None
        assert host.record.state is HostState.RUNNING
        kill_child()
    code, text = calling.result()
    assert (code, "SIGKILL" in text) == ("MODEL_FAILED", True)


async def test_late_work_is_not_started(host: RunningHost) -> None:
    with pytest.raises(Refused) as refused:
        await host.call("tick", {}, headers={"deadline": deadline_in(-0.1)})

    assert refused.value.code == ServiceError.LATE
    assert await host.call("tick", {}, headers={"deadline": deadline_in(30)}) == 1


@pytest.mark.parametrize("deadline", ["soon", "-1", "9" * 40])
async def test_a_deadline_that_is_none_is_refused(host: RunningHost, deadline: str) -> None:
    with pytest.raises(Refused) as refused:
        await host.call("tick", {}, headers={"deadline": deadline})

    assert refused.value.code == ServiceError.INVALID


async def test_what_is_no_request_is_refused(host: RunningHost) -> None:
    with pytest.raises(Refused) as refused:
        await host.ask(wire.SETUP, b"\xff\xff")
    with pytest.raises(Refused, match="does not answer"):
        await host.ask("dance")

    assert refused.value.code == ServiceError.INVALID


async def test_a_call_that_is_delivered_again_gets_the_answer_of_its_first_run(host: RunningHost) -> None:
    first = await host.call("tick", {}, headers={"call_id": "a"})
    again = await host.call("tick", {}, headers={"call_id": "a"})
    other = await host.call("tick", {}, headers={"call_id": "b"})

    assert (first, again, other) == (1, 1, 2)


async def test_a_call_that_is_delivered_again_while_it_runs_is_joined(host: RunningHost) -> None:
    answers = await asyncio.gather(*(host.call("do", "nap", headers={"call_id": "a"}) for _ in range(3)))

    assert answers == [1, 1, 1]


async def test_calls_that_are_refused_push_no_answer_out_of_memory(host: RunningHost) -> None:
    assert await host.call("tick", {}, headers={"call_id": "first"}) == 1
    napping = asyncio.create_task(host.do("nap"))
    refusals = await asyncio.gather(
        *(host.call("tick", {}, headers={"call_id": str(number)}) for number in range(100)), return_exceptions=True
    )

    assert [type(refusal) for refusal in refusals] == [Refused] * 100
    assert await napping == 2
    assert await host.call("tick", {}, headers={"call_id": "first"}) == 1


async def test_a_call_without_an_instance_may_be_made_again_under_its_id(start_host: StartHost) -> None:
    host = await start_host()
    headers = {"call_id": "a"}
    assert (await host.call("tick", {}, headers=headers))[0] == "FAILED_PRECONDITION"

    await host.set_up()

    assert await host.call("tick", {}, headers=headers) == 1


# --- processes that end ---


def kill_child() -> None:
    """Kill the model's process, the one worker that this test has."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    [pid] = [int(child) for child in children if b"worker_child" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(pid, signal.SIGKILL)


async def test_a_model_that_ends_its_process_is_there_again(host: RunningHost) -> None:
    code, text = await host.do("die")

    assert (code, "exit code 3" in text) == ("MODEL_FAILED", True)
    record = await host.until(lambda record: record.instance == 2)
    assert (record.state, record.restarts, "exit code 3" in record.reason) == (HostState.RUNNING, 1, True)
    assert "recovering" in host.states
    assert (await host.call("tick", {}))[0] == "FAILED_PRECONDITION"
    assert await host.set_up() == ("SUCCESS", "")
    assert await host.call("tick", {}) == 1


async def test_a_model_that_is_killed_while_idle_is_there_again(host: RunningHost) -> None:
    kill_child()

    record = await host.until(lambda record: record.instance == 2)
    assert "SIGKILL" in record.reason


async def test_a_call_while_the_process_is_away_is_refused(start_host: StartHost) -> None:
    host = await start_host(max_restarts=0)
    await host.set_up()
    await host.do("die")
    await host.until_state(HostState.FAILED)

    for ask in (host.call("predict"), host.set_up()):
        with pytest.raises(Refused) as refused:
            await ask
        assert refused.value.code == ServiceError.UNAVAILABLE

    assert (await host.tell(wire.HEALTH))["child_alive"] is False


async def test_a_model_that_hangs_past_its_deadline_is_killed(start_host: StartHost) -> None:
    host = await start_host(kill_after_s=0.2)
    await host.set_up()

    with pytest.raises(Refused) as refused:
        await host.call("do", "hang", headers={"deadline": deadline_in(0.2)})

    assert refused.value.code == ServiceError.LATE
    record = await host.until(lambda record: record.instance == 2)
    assert "it has not answered for 0.4 s" in record.reason


async def test_a_stopped_process_is_killed_past_the_deadline(start_host: StartHost) -> None:
    host = await start_host(kill_after_s=0.2)
    await host.set_up()
    os.kill(await host.do("pid"), signal.SIGSTOP)

    with pytest.raises(Refused):
        await host.call("predict", headers={"deadline": deadline_in(0.2)})

    await host.until(lambda record: record.instance == 2)


async def test_a_model_that_ends_too_often_stays_down_and_stays_visible(start_host: StartHost) -> None:
    host = await start_host(max_restarts=2)

    for instance in (1, 2, 3):
        await host.until(lambda record, wanted=instance: record.instance == wanted)  # type: ignore[misc]
        await host.set_up()
        await host.do("die")

    record = await host.until_state(HostState.FAILED)
    assert (record.restarts, "exit code 3" in record.reason) == (2, True)


# --- reports and stops ---


@pytest.mark.parametrize("code", sorted(wire.QUARANTINED))
async def test_a_report_ends_the_host_for_good(host: RunningHost, code: str) -> None:
    answer = await host.tell(wire.REPORT, failure_code=code, failure_reason="three times", coordinator="c1")

    assert answer == {"accepted": True, "action": "quarantined"}
    assert await host.exit_code() == QUARANTINED_EXIT_CODE
    await host.until_gone()
    assert host.states[-3:] == ["running", "failed", "gone"]


async def test_a_report_of_a_lost_connection_restarts_the_model(host: RunningHost) -> None:
    answer = await host.tell(wire.REPORT, failure_code="CONNECTION_FAILED", failure_reason="no route")

    assert answer == {"accepted": True, "action": "restarted"}
    record = await host.until(lambda record: record.instance == 2)
    assert record.reason == "CONNECTION_FAILED: no route"


async def test_a_report_that_is_none_changes_nothing(host: RunningHost) -> None:
    assert await host.tell(wire.REPORT, failure_code="UGLY") == {"accepted": False, "action": "ignored"}
    with pytest.raises(Refused, match="no JSON"):
        await host.ask(wire.REPORT, b"{")

    assert await host.call("tick", {}) == 1


async def test_a_stop_lets_the_call_finish_and_takes_no_other(host: RunningHost) -> None:
    calling = asyncio.create_task(host.do("nap"))
    while not (await host.tell(wire.HEALTH))["busy_for_ms"]:
        pass

    await host.tell(wire.STOP)
    await host.until_state(HostState.STOPPING)
    with pytest.raises(Refused) as refused:
        await host.call("predict")

    assert refused.value.code == ServiceError.UNAVAILABLE
    assert await calling == 1
    assert await host.exit_code() == 0


async def test_a_stop_ends_a_model_that_hangs(host: RunningHost) -> None:
    calling = asyncio.create_task(host.do("hang"))
    while not (await host.tell(wire.HEALTH))["busy_for_ms"]:
        pass

    await host.tell(wire.STOP, grace_s=0.1)

    assert await host.exit_code() == 0
    with pytest.raises(Refused, match="was stopped during the call"):
        await calling
