"""What KEDA asks a NATS server about a node is the lag of that node: its address, its stream, its consumers."""

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.base import Confirmation
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.clock import SystemClock
from runtime.deploy.kubernetes import KubernetesOptions, manifests
from runtime.deploy.manager import Manager
from runtime.deploy.manager_spec import manager_spec
from runtime.spec import names
from runtime.spec.load import load
from runtime.spec.model import Workflow
from test.support.kubernetes import of_kind
from test.support.ports import free_port

WORKFLOW = """
name: flow
nodes:
  - {name: clean, replicas: {max: 4, lag: 2}}
  - {name: count, from: clean, order: {partitions: 3}, replicas: {max: 3, lag: 2}}
"""
STREAM = "local_dev_flow"


@pytest.fixture
def monitoring() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def flow(tmp_path: Path) -> Workflow:
    (tmp_path / "workflow.yaml").write_text(WORKFLOW)
    return load(tmp_path)


@pytest.fixture
async def bus(
    start_nats_server: Callable[..., EmbeddedServer], monitoring: str, flow: Workflow
) -> AsyncIterator[NatsBus]:
    """A server with what the manager makes of the workflow."""
    server = start_nats_server(http=monitoring)
    bus = await NatsBus.connect([server.url], name="test")
    await Manager(bus, manager_spec(flow, "local"), SystemClock()).apply()
    yield bus
    await bus.close()


async def test_the_lag_is_what_a_node_has_not_handled(bus: NatsBus, flow: Workflow, monitoring: str) -> None:
    made = manifests(flow, KubernetesOptions(image="flow", nats="nats://elsewhere", nats_monitoring=monitoring))
    scaled = {name: each["spec"] for name, each in of_kind(made.documents, "ScaledObject").items()}
    entrypoint, output = names.entrypoint_subject(STREAM), names.node_subject(STREAM, "clean")
    sent = [entrypoint] * 7 + [names.partition_subject(output, number) for number in (0, 1, 1, 2, 2)]

    await publish(bus, sent)

    lags = {name: [await asyncio.to_thread(lag_of, each) for each in spec["triggers"]] for name, spec in scaled.items()}
    assert lags == {"flow-dev-clean": [7], "flow-dev-count": [1, 2, 2]}


async def publish(bus: NatsBus, subjects: list[str]) -> None:
    publisher = bus.publisher(STREAM)
    for number, subject in enumerate(subjects):
        stored = Confirmation()
        await publisher.publish(subject, b"", message_id=f"m{number}", confirm=stored)
        await stored
    await publisher.close()


def lag_of(trigger: Any) -> int:
    """Return what KEDA's scaler for JetStream counts: what waits in the consumer, and what it has delivered."""
    told = trigger["metadata"]
    url = f"http://{told['natsServerMonitoringEndpoint']}/jsz?acc={told['account']}&consumers=true&config=true"
    with urllib.request.urlopen(url, timeout=5) as answer:
        (account,) = (each for each in json.load(answer)["account_details"] if each["name"] == told["account"])
    (stream,) = (each for each in account["stream_detail"] if each["name"] == told["stream"])
    (consumer,) = (each for each in stream["consumer_detail"] if each["name"] == told["consumer"])
    return int(consumer["num_pending"]) + int(consumer["num_ack_pending"])
