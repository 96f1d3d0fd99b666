"""A node of kind `models` as a process, with real model hosts on a real nats-server."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.models.wire import HostState
from runtime.spec.node import CallValue, ModelCall, ModelsSpec, NodeSpec
from test.integration.conftest import OpenWorkbench
from test.support.model_host import BASE, CLUSTER, RunningHost, hosted, write_model
from test.support.node import node_spec

StartHost = Callable[[str], Awaitable[RunningHost]]

TICK = ModelCall(method="tick", args=(CallValue(path="payload"),))
# Ends the node behind its calls, the first time.
CRASHES = """
import os, pathlib

def vote(results, data):
    flag = pathlib.Path(__file__).with_name("crashed")
    if not flag.exists():
        flag.touch()
        os._exit(9)
    return results
"""


# Has one model do what the message says.
DEEDS = """
def arguments(model, data):
    return [data if model.model_id == "m1" else "print"], {}
"""


@pytest.fixture
async def start_host(nats_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[StartHost]:
    """Start the host of a model that counts its ticks, and wait until it runs."""
    async with AsyncExitStack() as stack:

        async def start(model_id: str) -> RunningHost:
            told = {**write_model(tmp_path / model_id), "model_id": model_id, "kill_after_s": 1.0}
            bus = await NatsBus.connect([nats_server.url], name=f"host {model_id}")
            stack.push_async_callback(bus.close)
            client_bus = await NatsBus.connect([nats_server.url], name=f"test of {model_id}")
            stack.push_async_callback(client_bus.close)
            host = await stack.enter_async_context(hosted(bus, client_bus, told))
            await host.until_state(HostState.RUNNING)
            return host

        yield start


def models_node(**options: Any) -> NodeSpec:
    spec = ModelsSpec(cluster=CLUSTER, base_class=BASE, **{"calls": (TICK,), **options})
    return node_spec(timeout_s=30.0, concurrency=1, models=spec)


def told(output: dict[str, Any]) -> dict[str, Any]:
    return {model: entry["result"] or entry["detail"].split(":")[0] for model, entry in output.items()}


@pytest.mark.timeout(60)
async def test_every_model_is_called_for_each_message(open_workbench: OpenWorkbench, start_host: StartHost) -> None:
    for model_id in ("m1", "m2"):
        await start_host(model_id)
    workbench = await open_workbench("")
    await workbench.start_child(models_node(calls=(TICK, ModelCall(method="predict")), emit="all"))

    await workbench.feed([1, 2])
    outputs = await workbench.see(2)

    assert [told(output["tick"]) for output in outputs] == [{"m1": 1, "m2": 1}, {"m1": 2, "m2": 2}]
    assert told(outputs[1]["predict"])["m1"] == {"count": 2, "horizon": 1}


@pytest.mark.attack
@pytest.mark.timeout(60)
async def test_a_node_killed_behind_its_calls_ticks_no_model_twice(
    open_workbench: OpenWorkbench, start_host: StartHost
) -> None:
    for model_id in ("m1", "m2"):
        await start_host(model_id)
    workbench = await open_workbench("", ack_wait_s=2.0)
    (workbench.folder / "voting.py").write_text(CRASHES)
    spec = models_node(aggregate="voting.py:vote", require=2)
    first = await workbench.start_child(spec)
    await workbench.feed(["one", "two"])
    assert await first.exit_code() == 9

    await workbench.start_child(spec)
    outputs = await workbench.see(2)

    # Whichever of the two came first: a model that was called twice for one of them would have counted to 3.
    assert sorted(told(output)["m1"] for output in outputs) == [1, 2]
    assert sorted(told(output)["m2"] for output in outputs) == [1, 2]
    assert await workbench.stored() == 2


@pytest.mark.timeout(60)
async def test_a_model_that_hangs_or_leaves_delays_nothing(
    open_workbench: OpenWorkbench, start_host: StartHost
) -> None:
    await start_host("m1")
    leaving = await start_host("m2")
    workbench = await open_workbench("")
    (workbench.folder / "deeds.py").write_text(DEEDS)
    do = ModelCall(method="do")
    await workbench.start_child(models_node(calls=(do,), arguments="deeds.py:arguments", call_timeout_s=1.0))

    await workbench.feed(["hang"])
    await workbench.see(1)
    leaving.stop.set()
    await leaving.until_gone()
    await workbench.feed(["print"])
    outputs = await workbench.see(2)

    assert told(outputs[0]) == {"m1": "DEADLINE_EXCEEDED", "m2": "printed"}
    assert set(outputs[1]) == {"m1"}


@pytest.mark.timeout(60)
async def test_a_node_whose_function_is_missing_does_not_start(open_workbench: OpenWorkbench) -> None:
    workbench = await open_workbench("")
    (workbench.folder / "voting.py").write_text("")

    child = workbench.launch_child(models_node(aggregate="voting.py:vote"))

    assert await child.exit_code() == 2
    assert "has no function 'vote'" in child.log()
