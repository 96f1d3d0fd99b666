"""A coordinator and real model hosts on a real NATS: joins, crashes, kills, and the loss of the server."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.clock import SystemClock
from runtime.errors import AccessError
from runtime.models import DynamicSubclassModelConcurrentRunner, ModelPredictResult
from runtime.models.host import ModelHost
from runtime.spec.model_host import ModelHostSpec
from test.support.fake_host import HANG, FakeHost
from test.support.model_host import BASE, CLUSTER, PATIENCE_S, write_model

StartHost = Callable[..., Awaitable["HostTask"]]
StartCoordinator = Callable[..., Awaitable["Watched"]]


class HostTask:
    """A real host, which runs in this process; its model has a process of its own."""

    def __init__(self, host: ModelHost, bus: NatsBus) -> None:
        self.bus = bus
        self._stop = asyncio.Event()
        self._running = asyncio.create_task(host.run(self._stop), name="host")

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(self._running, return_exceptions=True)


class Watched:
    """A coordinator, whose joins and leaves can be waited for."""

    def __init__(self, runner: DynamicSubclassModelConcurrentRunner) -> None:
        self.runner = runner
        self._changed = asyncio.Event()
        runner.model_cluster.on_join = runner.model_cluster.on_leave = lambda _: self._changed.set()

    async def until_running(self, *model_ids: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while set(self.runner.model_cluster.models_run) != set(model_ids):
                self._changed.clear()
                await self._changed.wait()

    async def call(self, method: str, *args: Any, **options: Any) -> dict[str, ModelPredictResult]:
        results = await self.runner.call(method, args=args, **options)
        return {model.model_id: result for model, result in results.items()}


@pytest.fixture
async def start_host(nats_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[StartHost]:
    async with AsyncExitStack() as stack:

        async def start(model_id: str, **told: Any) -> HostTask:
            bus = await NatsBus.connect([nats_server.url], name="host")
            stack.push_async_callback(bus.close)
            spec = ModelHostSpec(**{**write_model(tmp_path), "model_id": model_id, **told})
            host = HostTask(ModelHost(spec, bus, SystemClock()), bus)
            stack.push_async_callback(host.stop)
            return host

        yield start


@pytest.fixture
async def start_coordinator(nats_server: EmbeddedServer) -> AsyncIterator[StartCoordinator]:
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Watched:
            host, _, port = nats_server.url.removeprefix("nats://").partition(":")
            fields = {
                "timeout": 5, "crunch_id": CLUSTER, "host": host, "port": int(port), "base_classname": BASE, **options,
            }  # fmt: skip
            watched = Watched(DynamicSubclassModelConcurrentRunner(**fields))
            stack.push_async_callback(watched.runner.close)
            await watched.runner.init()
            return watched

        yield start


async def test_models_keep_their_state_join_and_leave(
    start_host: StartHost, start_coordinator: StartCoordinator
) -> None:
    coordinator = await start_coordinator(instance_kwargs={"start": 10})
    first = await start_host("m1", name="alpha", infos={"owner": "ann"})
    await coordinator.until_running("m1")
    assert (await coordinator.call("tick", {"x": 1}))["m1"].result == 11
    await start_host("m2")
    await coordinator.until_running("m1", "m2")

    results = await coordinator.call("tick", {"x": 1})

    assert {model_id: result.result for model_id, result in results.items()} == {"m1": 12, "m2": 11}
    model = coordinator.runner.model_cluster.models_run["m1"]
    assert (model.model_name, model.infos) == ("alpha", {"owner": "ann"})
    assert all(0 < result.model_time_us <= result.exec_time_us for result in results.values())
    await first.stop()
    await coordinator.until_running("m2")


async def test_a_model_whose_process_is_killed_during_a_call_is_set_up_again(
    start_host: StartHost, start_coordinator: StartCoordinator
) -> None:
    await start_host("m1")
    coordinator = await start_coordinator()
    await coordinator.until_running("m1")
    pid = (await coordinator.call("do", "pid"))["m1"].result

    calling = asyncio.create_task(coordinator.call("do", "hang", timeout=30))
    await wait_until_busy(coordinator)
    os.kill(pid, signal.SIGKILL)
    killed = (await calling)["m1"]

    assert killed.status is ModelPredictResult.Status.FAILED
    assert killed.detail.startswith("MODEL_FAILED: ")
    await coordinator.until_running()
    await coordinator.until_running("m1")
    assert (await coordinator.call("tick", {}))["m1"].result == 1


async def wait_until_busy(coordinator: Watched) -> None:
    model = coordinator.runner.model_cluster.models_run["m1"]
    async with asyncio.timeout(PATIENCE_S):
        while not (await model.health()).busy_for_ms:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # its host tells nobody that it is busy


async def test_a_frozen_model_costs_its_own_entry_alone(
    start_host: StartHost, start_coordinator: StartCoordinator
) -> None:
    await start_host("m1")
    await start_host("m2")
    coordinator = await start_coordinator()
    await coordinator.until_running("m1", "m2")
    pid = (await coordinator.call("do", "pid"))["m1"].result

    os.kill(pid, signal.SIGSTOP)
    try:
        started_s = time.monotonic()
        results = await coordinator.call("tick", {}, timeout=0.5)
        took_s = time.monotonic() - started_s
    finally:
        os.kill(pid, signal.SIGCONT)

    assert results["m1"].detail.startswith("DEADLINE_EXCEEDED")
    assert results["m2"].result == 1
    assert 0.5 <= took_s < 1.5


@pytest.mark.attack
async def test_models_are_back_after_a_restart_of_nats(
    nats_server: EmbeddedServer, start_host: StartHost, start_coordinator: StartCoordinator
) -> None:
    await start_host("m1")
    coordinator = await start_coordinator()
    await coordinator.until_running("m1")
    assert (await coordinator.call("tick", {}))["m1"].result == 1
    calling = asyncio.create_task(coordinator.call("do", "hang", timeout=2))

    await asyncio.to_thread(nats_server.stop_blocking)
    lost = (await calling)["m1"]
    await coordinator.until_running()
    await asyncio.to_thread(nats_server.start_blocking)
    await coordinator.until_running("m1")

    assert lost.detail.startswith("CONNECTION_LOST")


async def test_a_model_that_may_not_be_asked_fails_at_once_and_alone(
    start_nats_server: Callable[..., EmbeddedServer],
) -> None:
    everything = {"publish": ">", "subscribe": ">"}
    forbidden = {"publish": {"deny": "model.birds.m1.*.call"}, "subscribe": ">"}
    users = [
        {"user": "host", "password": "h", "permissions": everything},
        {"user": "coordinator", "password": "c", "permissions": forbidden},
    ]
    server = start_nats_server(authorization={"users": users})
    place = server.url.removeprefix("nats://")
    hosts = await NatsBus.connect([f"nats://host:h@{place}"], name="hosts")
    fakes = [await FakeHost(hosts, SystemClock(), model_id).start() for model_id in ("m1", "m2")]
    runner = DynamicSubclassModelConcurrentRunner(
        timeout=30, crunch_id="birds", base_classname=BASE, servers=[f"nats://coordinator:c@{place}"]
    )

    async with runner:
        started_s = time.monotonic()
        results = {model.model_id: result for model, result in (await runner.call("predict")).items()}
        took_s = time.monotonic() - started_s
        assert "m1" in runner.model_cluster.models_unusable

    assert results["m1"].detail.startswith("AUTH: ")
    assert results["m2"].result == "m2"
    assert took_s < 5
    for fake in fakes:
        await fake.stop()
    assert [report["failure_code"] for report in fakes[0].reports] == ["CONNECTION_FAILED"]
    await hosts.close()


async def test_a_server_that_refuses_the_coordinator_is_named_by_init_and_harms_no_model(
    start_nats_server: Callable[..., EmbeddedServer],
) -> None:
    server = start_nats_server(authorization={"users": [{"user": "host", "password": "h"}]})
    runner = DynamicSubclassModelConcurrentRunner(
        timeout=1, crunch_id="birds", base_classname=BASE, servers=[server.url.replace("://", "://x:y@")]
    )

    with pytest.raises(AccessError):
        await runner.init()

    await runner.close()


async def test_ten_hung_models_of_a_hundred_hold_a_call_no_longer_than_its_deadline(
    nats_server: EmbeddedServer,
) -> None:
    bus = await NatsBus.connect([nats_server.url], name="hosts")
    fakes = [FakeHost(bus, SystemClock(), f"m{number:03}") for number in range(100)]
    for fake in fakes:
        await fake.start()
    for fake in fakes[:10]:
        fake.methods["predict"] = lambda: HANG
    runner = DynamicSubclassModelConcurrentRunner(
        timeout=1, crunch_id="birds", base_classname=BASE, servers=[nats_server.url], max_consecutive_timeouts=100
    )

    async with runner:
        started_s = time.monotonic()
        results = {model.model_id: result for model, result in (await runner.call("predict")).items()}
        took_s = time.monotonic() - started_s

    assert [result.status.name for result in results.values()].count("TIMEOUT") == 10
    assert len(results) == 100
    assert 1 <= took_s < 1.5  # half a second for a machine that does other things, too
    for fake in fakes:
        await fake.stop()
    await bus.close()


SCRIPT = """
import asyncio, sys
from runtime.models import Argument, DynamicSubclassModelConcurrentRunner, Variant, VariantType, encode_data

async def main():
    runner = DynamicSubclassModelConcurrentRunner(
        timeout=10, crunch_id="birds", host="127.0.0.1", port=int(sys.argv[1]), base_classname="game.tracker.Tracker"
    )
    await runner.init()

    async def prediction_call():
        while True:
            payload = Variant(type=VariantType.JSON, value=encode_data(VariantType.JSON, {"falcon_id": 1}))
            await runner.call(method_name="tick", arguments=([Argument(position=1, data=payload)], []))
            result = await runner.call(method_name="predict")
            for model_runner, model_predict_result in result.items():
                print(f"{model_runner.model_id}: {model_predict_result}", flush=True)
            await asyncio.sleep(30)

    await asyncio.gather(asyncio.create_task(runner.sync()), asyncio.create_task(prediction_call()))

if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("Received exit signal, shutting down gracefully.")
"""


async def test_the_shared_arguments_example_runs_and_ends_with_ctrl_c(
    nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    bus = await NatsBus.connect([nats_server.url], name="hosts")
    fake = await FakeHost(bus, SystemClock(), "m1", {"tick": lambda payload: None, "predict": lambda: 0.5}).start()
    script = tmp_path / "coordinator.py"
    script.write_text(SCRIPT)
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(nats_server.port),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert child.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        line = (await child.stdout.readline()).decode()

    child.send_signal(signal.SIGINT)
    async with asyncio.timeout(2):
        output, errors = await child.communicate()

    assert line.startswith("m1: ModelPredictResult(model_runner=DynamicSubclassModelRunner(model_id='m1'")
    assert "result=0.5, status=<Status.SUCCESS: 'SUCCESS'>" in line
    assert output.decode() == "Received exit signal, shutting down gracefully.\n"
    assert errors.decode() == ""
    assert fake.arguments[0] == ([{"falcon_id": 1}], {})
    await fake.stop()
    await bus.close()
