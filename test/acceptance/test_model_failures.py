"""What can go wrong with models, on real processes of hosts; docs/model-failures.md names the tests of each case."""

import asyncio
import base64
import gc
import math
import os
import signal
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.errors import AccessError, EncodingError, InvalidCoordinatorUsageError
from runtime.models import Argument, Variant, VariantType, encode_data
from runtime.spec.model_host import QUARANTINED_EXIT_CODE
from test.support.model_host import CLUSTER, MODEL
from test.support.model_processes import Cluster, told

pytestmark = pytest.mark.attack

OK = ("SUCCESS", "")
# Bytes of an argument: seven eighths of the largest message that any server takes, and beyond what ours does.
LARGE_BYTES = 63 * 1024 * 1024

# Beside the deeds of `MODEL`: results without a form, and more that models should not do.
DEEDS = (
    MODEL
    + """
    def _nan(self): return {"scale": float("nan")}
    def _bare_nan(self): return float("nan")
    def _huge(self): return 2 ** 63
    def _damaged(self):
        from runtime.models import Variant, VariantType
        return Variant(type=VariantType.JSON, value=b"{")
    def _spin_threads(self):
        import threading
        def spin():
            while True: pass
        for _ in range(4): threading.Thread(target=spin, daemon=True).start()
        return "spinning"
    def _close(self): os.closerange(3, 64); return "closed"

    def size(self, value):
        return len(value)

    def double(self, table):
        return table * 2
"""
)
ABSENT = "from game.tracker import Nobody"
BROKEN = """
from game.tracker import Tracker
class Model(Tracker):
    def __init__(self): raise ValueError("no weights")
    def tick(self, payload): ...
"""


@pytest.fixture
async def cluster(nats_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(nats_server.url, tmp_path) as cluster:
        yield cluster


# --- what a model does wrong ---


async def test_what_a_model_raises_or_returns_wrongly_fails_its_own_entry(cluster: Cluster) -> None:
    await cluster.host("m1", DEEDS)
    await cluster.host("m2", DEEDS)
    coordinator = await cluster.coordinator("m1", "m2", max_consecutive_failures=0)
    bad = coordinator.model("m1")

    def only_m1(deed: str) -> Callable[[Any], Any]:
        return lambda model: ([typed("raise" if deed == "raise" else deed) if model is bad else typed("print")], [])

    ends = {
        deed: await coordinator.call("do", arguments=only_m1(deed))
        for deed in ("raise", "exit", "object", "nan", "huge", "damaged")
    }

    assert {deed: told(results)["m1"][1] for deed, results in ends.items()} == {
        "raise": "MODEL_FAILED",
        "exit": "MODEL_FAILED",
        "object": "MODEL_FAILED",
        "nan": "MODEL_FAILED",
        "huge": "MODEL_FAILED",
        "damaged": "DECODE",
    }
    assert "ValueError: no birds" in ends["raise"]["m1"].detail
    assert all(told(results)["m2"] == OK for results in ends.values())
    assert bad.consecutive_failures == len(ends)
    assert told(await coordinator.call("tick", {})) == {"m1": OK, "m2": OK}
    assert bad.consecutive_failures == 0


async def test_a_missing_method_is_reported_at_once_and_ends_the_host(cluster: Cluster) -> None:
    host = await cluster.host("m1")
    coordinator = await cluster.coordinator("m1")

    results = await coordinator.call("fly")

    assert told(results) == {"m1": ("FAILED", "BAD_IMPLEMENTATION")}
    assert "model.Model has no method fly()" in results["m1"].detail
    assert await host.exit_code() == QUARANTINED_EXIT_CODE
    assert await coordinator.call("tick", {}) == {}


@pytest.mark.parametrize(
    ("model", "code", "text"),
    [
        ("x = 1", "BAD_IMPLEMENTATION", "no concrete subclass of game.tracker.Tracker"),
        (ABSENT, "BAD_IMPLEMENTATION", "ImportError: cannot import name 'Nobody'"),
        (BROKEN, "MULTIPLE_FAILED", "ValueError: no weights"),
    ],
    ids=["no class", "import error", "constructor"],
)
async def test_a_model_that_cannot_be_made_is_reported_and_ends_with_its_host(
    cluster: Cluster, model: str, code: str, text: str
) -> None:
    host = await cluster.host("m1", model)
    await cluster.host("m2")

    coordinator = await cluster.coordinator("m2")

    assert await host.exit_code() == QUARANTINED_EXIT_CODE
    assert f"reports the model: {code}" in host.log
    assert text in host.log
    assert told(await coordinator.call("tick", {})) == {"m2": OK}


async def test_a_model_that_prints_forks_and_eats_its_threads_answers_as_itself(cluster: Cluster) -> None:
    host = await cluster.host("m1", DEEDS)
    coordinator = await cluster.coordinator("m1")

    answers = [(await coordinator.do(deed))["m1"].result for deed in ("print", "fork", "spin_threads", "print")]
    results = await coordinator.call("tick", {})

    assert answers == ["printed", "parent", "spinning", "printed"]
    assert results["m1"].result == 1
    assert (await coordinator.model().health()).is_good
    # Two calls, one line of each kind; what was forked has printed nothing and answered nothing.
    assert (host.log.count("INFO tweet "), host.log.count("INFO raw tweet ")) == (2, 2)


async def test_a_model_that_holds_the_interpreter_costs_its_own_entry(cluster: Cluster) -> None:
    await cluster.host("m1")
    await cluster.host("m2")
    coordinator = await cluster.coordinator("m1", "m2")
    spinning = asyncio.create_task(coordinator.do("spin", model_runs=[coordinator.model("m1")], timeout=1))
    await coordinator.until_busy("m1")

    results = await coordinator.call("tick", {})
    health = await coordinator.model("m1").health()

    assert told(results) == {"m1": ("TIMEOUT", "BUSY"), "m2": OK}
    assert (health.is_good, health.busy_for_ms > 0) == (True, True)
    assert told(await spinning) == {"m1": ("TIMEOUT", "DEADLINE_EXCEEDED")}


async def test_a_model_that_closes_its_channel_is_started_again(cluster: Cluster) -> None:
    await cluster.host("m1", DEEDS)
    coordinator = await cluster.coordinator("m1")

    results = await coordinator.do("close")

    assert told(results) == {"m1": ("FAILED", "MODEL_FAILED")}
    await coordinator.until_joined(2)
    assert (await coordinator.call("tick", {}))["m1"].result == 1


# --- time ---


async def test_a_late_model_is_left_out_probed_and_then_asked_again(cluster: Cluster) -> None:
    await cluster.host("m1")
    coordinator = await cluster.coordinator("m1", max_consecutive_timeouts=0)

    started_s = time.monotonic()
    late = await coordinator.do("nap", timeout=0.2)
    took_s = time.monotonic() - started_s
    skipped = await coordinator.call("tick", {})

    assert told(late) == {"m1": ("TIMEOUT", "DEADLINE_EXCEEDED")}
    assert 0.2 <= took_s < 1.0
    assert told(skipped) == {"m1": ("TIMEOUT", "SKIPPED")}
    assert coordinator.model().consecutive_timeouts == 1
    # The instance is the same one: a healthy host was probed, and not set up again.
    while (await coordinator.call("tick", {}))["m1"].result != 2:
        pass
    assert coordinator.model().consecutive_timeouts == 0


async def test_a_model_that_is_late_too_often_is_reported_and_ends_with_its_host(cluster: Cluster) -> None:
    host = await cluster.host("m1")
    coordinator = await cluster.coordinator("m1", max_consecutive_timeouts=1)

    ends = [told(await coordinator.do("hang", timeout=0.2)) for _ in range(3)]

    assert [each["m1"][1] for each in ends] == ["DEADLINE_EXCEEDED", "SKIPPED", "BUSY"]
    assert await host.exit_code() == QUARANTINED_EXIT_CODE
    assert "MULTIPLE_TIMEOUT" in host.log


async def test_a_frozen_model_costs_its_own_entry_and_goes_on_afterwards(cluster: Cluster) -> None:
    host = await cluster.host("m1")
    await cluster.host("m2")
    coordinator = await cluster.coordinator("m1", "m2", max_consecutive_timeouts=0)

    host.send_to_model(signal.SIGSTOP)
    frozen = await coordinator.call("tick", {}, timeout=0.3)
    health = await coordinator.model("m1").health()
    host.send_to_model(signal.SIGCONT)

    assert told(frozen) == {"m1": ("TIMEOUT", "DEADLINE_EXCEEDED"), "m2": OK}
    assert health.is_good
    while told(await coordinator.call("tick", {}))["m1"] != OK:
        pass


async def test_a_frozen_host_costs_its_own_entry_leaves_and_comes_back(cluster: Cluster) -> None:
    host = await cluster.host("m1")
    await cluster.host("m2")
    coordinator = await cluster.coordinator("m1", "m2", max_consecutive_timeouts=0)

    host.send(signal.SIGSTOP)
    frozen = await coordinator.call("tick", {}, timeout=0.3)
    await coordinator.until_running("m2")
    host.send(signal.SIGCONT)
    await coordinator.until_running("m1", "m2")

    assert told(frozen) == {"m1": ("TIMEOUT", "DEADLINE_EXCEEDED"), "m2": OK}
    while told(await coordinator.call("tick", {})) != {"m1": OK, "m2": OK}:
        pass


# --- processes that end ---


async def test_a_model_killed_during_a_call_fails_its_entry_and_is_made_anew(cluster: Cluster) -> None:
    host = await cluster.host("m1")
    coordinator = await cluster.coordinator("m1")
    calling = asyncio.create_task(coordinator.do("hang"))
    await coordinator.until_busy()

    host.send_to_model(signal.SIGKILL)

    results = await calling
    assert told(results) == {"m1": ("FAILED", "MODEL_FAILED")}
    assert "SIGKILL" in results["m1"].detail
    await coordinator.until_joined(2)
    assert (await coordinator.call("tick", {}))["m1"].result == 1


async def test_a_host_that_restarted_its_model_is_set_up_and_called_within_one_call(cluster: Cluster) -> None:
    host = await cluster.host("m1")
    coordinator = await cluster.coordinator("m1")
    model = coordinator.model()
    assert (await coordinator.call("tick", {}))["m1"].result == 1

    host.send_to_model(signal.SIGKILL)
    await coordinator.until_running()
    async with asyncio.timeout(30):
        while not (await model.health()).is_good:
            pass
    results = await coordinator.call("tick", {}, model_runs=[model])

    assert (told(results), results["m1"].result) == ({"m1": OK}, 1)
    assert model.consecutive_timeouts == 0


async def test_a_host_killed_during_a_call_ends_its_entry_before_the_deadline(cluster: Cluster) -> None:
    host = await cluster.host("m1")
    coordinator = await cluster.coordinator("m1", timeout=60)
    model = coordinator.model()
    calling = asyncio.create_task(coordinator.do("hang"))
    await coordinator.until_busy()

    host.send(signal.SIGKILL)
    started_s = time.monotonic()
    results = await calling

    assert told(results) == {"m1": ("TIMEOUT", "CLOSED")}
    # Its presence expires.
    assert time.monotonic() - started_s < 15
    assert model.consecutive_timeouts == 0


async def test_a_host_that_is_gone_costs_milliseconds(cluster: Cluster) -> None:
    host = await cluster.host("m1")
    coordinator = await cluster.coordinator("m1", timeout=60)
    model = coordinator.model()

    host.send(signal.SIGKILL)
    await host.exit_code()
    started_s = time.monotonic()
    results = await coordinator.call("tick", {})
    took_s = time.monotonic() - started_s

    # It claims to run until its presence expires, which may be now on a loaded machine.
    assert told(results) in ({"m1": ("TIMEOUT", "UNAVAILABLE")}, {"m1": ("TIMEOUT", "CLOSED")})
    assert took_s < 2
    assert model.consecutive_timeouts == (1 if told(results)["m1"][1] == "UNAVAILABLE" else 0)
    await coordinator.until_running()


async def test_a_host_stopped_during_a_call_ends_its_entry_without_penalty(cluster: Cluster) -> None:
    host = await cluster.host("m1", grace_s=0.2)
    coordinator = await cluster.coordinator("m1", timeout=60)
    model = coordinator.model()
    calling = asyncio.create_task(coordinator.do("hang"))
    await coordinator.until_busy()

    host.send(signal.SIGTERM)

    assert told(await calling) == {"m1": ("TIMEOUT", "CLOSED")}
    assert model.consecutive_timeouts == 0
    assert await host.exit_code() == 0


async def test_two_hosts_under_one_id_are_one_model_and_the_newer_one_is_called(cluster: Cluster) -> None:
    await cluster.host("m1", name="old")
    coordinator = await cluster.coordinator("m1")
    assert (await coordinator.call("tick", {}))["m1"].result == 1
    hanging = asyncio.create_task(coordinator.do("hang"))
    await coordinator.until_busy()

    newer = await cluster.host("m1", name="new")
    await coordinator.until_joined(2)

    # A call of the older one is over.
    assert told(await hanging) == {"m1": ("TIMEOUT", "CLOSED")}
    results = await coordinator.call("tick", {})
    assert (told(results), results["m1"].result) == ({"m1": OK}, 1)
    assert coordinator.model().model_name == "new"
    newer.send(signal.SIGTERM)
    assert await newer.exit_code() == 0


# --- NATS, rights ---


async def test_a_restart_of_nats_during_sync_ends_a_call_in_time_and_brings_all_models_back(
    cluster: Cluster, nats_server: EmbeddedServer
) -> None:
    for model_id in ("m1", "m2"):
        await cluster.host(model_id)
    coordinator = await cluster.coordinator("m1", "m2")
    model = coordinator.model()
    syncing = asyncio.create_task(coordinator.runner.sync())
    calling = asyncio.create_task(coordinator.do("hang", timeout=2, model_runs=[model]))
    await coordinator.until_busy()

    await asyncio.to_thread(nats_server.stop_blocking)
    lost = await calling
    await coordinator.until_running()
    await asyncio.to_thread(nats_server.start_blocking)
    await coordinator.until_running("m1", "m2")

    assert told(lost) == {"m1": ("TIMEOUT", "CONNECTION_LOST")}
    assert model.consecutive_timeouts == 0
    assert told(await coordinator.call("tick", {}))["m2"] == OK
    assert not syncing.done()
    await coordinator.runner.close()
    await asyncio.wait_for(syncing, 2)


async def test_a_model_that_may_not_be_called_fails_at_once_and_alone(
    start_nats_server: Callable[..., EmbeddedServer], tmp_path: Path
) -> None:
    rights = {"publish": {"deny": [f"model.{CLUSTER}.m1.*.call"]}, "subscribe": ">"}
    users = [{"user": "host", "password": "h"}, {"user": "player", "password": "p", "permissions": rights}]
    place = start_nats_server(authorization={"users": users}).url.removeprefix("nats://")

    async with Cluster(f"nats://host:h@{place}", tmp_path) as cluster:
        host = await cluster.host("m1")
        await cluster.host("m2")
        coordinator = await cluster.coordinator("m1", "m2", servers=[f"nats://player:p@{place}"], timeout=60)

        started_s = time.monotonic()
        results = await coordinator.call("tick", {})
        took_s = time.monotonic() - started_s

        assert told(results) == {"m1": ("FAILED", "AUTH"), "m2": OK}
        assert took_s < 5
        await coordinator.until_running("m2")
        await coordinator.runner.close()
        assert "reports the model: CONNECTION_FAILED" in host.log


async def test_a_server_that_refuses_the_coordinator_harms_no_model(
    start_nats_server: Callable[..., EmbeddedServer], tmp_path: Path
) -> None:
    place = start_nats_server(authorization={"users": [{"user": "host", "password": "h"}]}).url.partition("://")[2]

    async with Cluster(f"nats://host:h@{place}", tmp_path) as cluster:
        host = await cluster.host("m1")
        coordinator = await cluster.coordinator("m1")
        with pytest.raises(AccessError):
            await cluster.coordinator(servers=[f"nats://nobody:n@{place}"])

        assert told(await coordinator.call("tick", {})) == {"m1": OK}
        assert "reports the model" not in host.log


# --- what the coordinator does wrong ---


async def test_an_argument_function_that_raises_fails_that_entry_without_penalty(cluster: Cluster) -> None:
    await cluster.host("m1")
    await cluster.host("m2")
    coordinator = await cluster.coordinator("m1", "m2")

    def arguments(model: Any) -> Any:
        wealth = {"m2": 5}[model.model_id]
        return [typed({"wealth": wealth})], []

    results = await coordinator.call("tick", arguments=arguments)

    assert told(results) == {"m1": ("FAILED", "ARGUMENTS"), "m2": OK}
    assert "KeyError: 'm1'" in results["m1"].detail
    assert coordinator.model("m1").consecutive_failures == 0


async def test_misuse_raises_and_reaches_no_model(cluster: Cluster) -> None:
    await cluster.host("m1")
    coordinator = await cluster.coordinator("m1")
    gap: Any = ([Argument(position=3, data=Variant(type=VariantType.NONE))], [])

    for call, error in (
        (coordinator.runner.call(""), InvalidCoordinatorUsageError),
        (coordinator.runner.call("tick", gap), InvalidCoordinatorUsageError),
        (coordinator.runner.call("tick", args=[object()]), EncodingError),
        (coordinator.runner.call("tick", args=[{"x": math.nan}]), EncodingError),
        (coordinator.runner.call("tick", args=[2**63]), EncodingError),
    ):
        with pytest.raises(error):
            await call
    with pytest.raises(InvalidCoordinatorUsageError):
        await cluster.coordinator(base_classname="TrackerBase")

    assert (await coordinator.call("tick", {}))["m1"].result == 1
    assert coordinator.model().consecutive_failures == 0


# --- values ---


async def test_arguments_of_63_mib_reach_every_model(cluster: Cluster) -> None:
    for model_id in ("m1", "m2"):
        await cluster.host(model_id, DEEDS)
    coordinator = await cluster.coordinator("m1", "m2", timeout=60)
    # Random, so that it does not shrink to one message.
    value = base64.b64encode(os.urandom(LARGE_BYTES // 4 * 3)).decode()

    results = await coordinator.call("size", value)

    assert {model_id: each.result or each.detail for model_id, each in results.items()} == {
        "m1": len(value),
        "m2": len(value),
    }
    assert len(value) == LARGE_BYTES


async def test_values_at_the_limits_of_their_types_come_back(cluster: Cluster) -> None:
    await cluster.host("m1", DEEDS)
    coordinator = await cluster.coordinator("m1")
    values = [2**63 - 1, -(2**63), math.inf, -0.0, 5e-324, "", "dove 🕊", None, True, [], {"a": [1, {"b": None}]}]

    answers = [(await coordinator.call("echo", value))["m1"].result for value in values]
    nans = [(await coordinator.call("echo", math.nan)), await coordinator.do("bare_nan")]

    assert answers == values
    assert all(math.isnan(each["m1"].result) for each in nans)


@pytest.mark.parametrize("kind", [VariantType.PARQUET, VariantType.ARROW])
async def test_tables_go_through_a_model_and_come_back(cluster: Cluster, kind: VariantType) -> None:
    await cluster.host("m1", DEEDS)
    coordinator = await cluster.coordinator("m1")
    frame = pd.DataFrame({"x": [1, 2, 3], "y": [0.5, math.nan, -1.0]})
    table = Variant(type=kind, value=encode_data(kind, frame))

    echoed = await coordinator.call("echo", arguments=([Argument(position=1, data=table)], []))
    doubled = await coordinator.call("double", arguments=([Argument(position=1, data=table)], []))
    plain = await coordinator.call("echo", pa.Table.from_pandas(frame) if kind is VariantType.ARROW else frame)

    pd.testing.assert_frame_equal(echoed["m1"].result, frame)
    pd.testing.assert_frame_equal(doubled["m1"].result, frame * 2)
    pd.testing.assert_frame_equal(plain["m1"].result, frame)


# --- what is left ---


async def test_a_thousand_calls_of_real_models_leave_nothing_behind(cluster: Cluster) -> None:
    for model_id in ("m1", "m2", "m3"):
        await cluster.host(model_id)
    coordinator = await cluster.coordinator("m1", "m2", "m3")
    await coordinator.call("tick", {})
    bus: Any = coordinator.runner._link.bus
    client = bus._connection.client

    def left() -> tuple[int, int, int]:
        return len(asyncio.all_tasks()), len(client._subs), len(bus._replies._waiting)

    async def tick_500_times(first: int) -> None:
        for number in range(first, first + 500):
            assert {each.result for each in (await coordinator.call("tick", {})).values()} == {number}

    before = left()
    tracemalloc.start()
    await tick_500_times(2)
    gc.collect()
    kept_bytes, _ = tracemalloc.get_traced_memory()
    await tick_500_times(502)
    gc.collect()
    grown_bytes = tracemalloc.get_traced_memory()[0] - kept_bytes
    tracemalloc.stop()

    assert left() == before
    # A single object that each call leaves behind would be more.
    assert grown_bytes < 500 * 48


def typed(value: Any) -> Any:
    """Return a first argument."""
    kind = VariantType.STRING if isinstance(value, str) else VariantType.JSON
    return Argument(position=1, data=Variant(type=kind, value=encode_data(kind, value)))
