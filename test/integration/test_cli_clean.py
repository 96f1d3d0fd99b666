"""`krt clean` on a real server, after a node was removed from the workflow file."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.bus.base import Confirmation, ConsumerConfig
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.bus.presence import EXPIRY_S, Heartbeat, ServiceRecord
from runtime.cli import exits
from runtime.clock import SystemClock
from runtime.deploy.manager import Manager
from runtime.deploy.manager_spec import manager_spec
from runtime.spec import names
from runtime.spec.load import load
from test.integration.test_cli_client import Krt

WORKFLOW = """
name: flow
nodes:
  - {name: clean, handler: handler.py}
  - {name: ocr, handler: handler.py}
"""
STREAM = "local_dev_flow"
DEAD = names.dead_letter_stream(STREAM)
STATES, PAGES = f"state_{STREAM}_ocr", f"{STREAM}_pages"


@pytest.fixture
async def bus(nats_server: EmbeddedServer) -> AsyncIterator[NatsBus]:
    connected = await NatsBus.connect([nats_server.url], name="manager")
    yield connected
    await connected.close()


@pytest.fixture
async def krt(bus: NatsBus, tmp_path: Path) -> AsyncIterator[Krt]:
    """The workflow as it was with the node ocr, one message of which is not handled; the file has it no more."""
    (tmp_path / "handler.py").write_text("def handler(ctx, data): return data\n")
    file = tmp_path / "workflow.yaml"
    file.write_text(WORKFLOW)
    await Manager(bus, manager_spec(load(file), "local"), SystemClock()).apply()
    publisher, stored = bus.publisher(STREAM), Confirmation()
    await publisher.publish(f"{STREAM}.clean", b"", message_id="1", confirm=stored)
    await stored
    file.write_text(WORKFLOW.replace("  - {name: ocr, handler: handler.py}\n", ""))
    yield Krt(tmp_path)
    await publisher.close()


async def test_data_is_shown_with_its_size_and_removed_on_a_request_of_its_own(
    bus: NatsBus, nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    krt, here = Krt(tmp_path), (".", "--nats", nats_server.url)
    (tmp_path / "handler.py").write_text("def handler(ctx, data): return data\n")
    file = tmp_path / "workflow.yaml"
    with_data = WORKFLOW.replace("ocr, ", "ocr, state: true, object_store: pages, ") + "objects: {pages: {}}\n"
    file.write_text(with_data)
    await Manager(bus, manager_spec(load(file), "local"), SystemClock()).apply()
    await (await bus.key_value(STATES)).put("a", b"{}")
    await (await bus.object_store(PAGES)).put("scan", b"x" * 1000)
    file.write_text(WORKFLOW.replace("  - {name: ocr, handler: handler.py}\n", ""))

    shown = await krt("clean", *here)
    kept = await krt("clean", *here, "--yes")
    removed = await krt("clean", *here, "--yes", "--data")
    again = await krt("clean", *here)

    data = [line for line in shown[1].splitlines() if not line.startswith(("consumer", "bucket key-store"))]
    assert data[0] == f"bucket {STATES}: data, 1 entries"
    assert data[1].startswith(f"object store {PAGES}: 1 objects, ")
    assert data[2:] == ["nothing was removed: repeat with --yes --data"]
    assert kept[1].splitlines()[-1] == "kept: 2 buckets and object stores with data; --data removes them"
    assert removed == (
        exits.OK,
        f"bucket {STATES}: removed with its data\nobject store {PAGES}: removed with its objects\n",
        "",
    )
    assert again == (exits.OK, f"nothing of removed nodes is left of {STREAM}\n", "")


async def test_leftovers_are_shown_first_and_messages_only_given_up_on_request(
    krt: Krt, nats_server: EmbeddedServer
) -> None:
    here = (".", "--nats", nats_server.url)

    shown = await krt("clean", *here)
    kept = await krt("clean", *here, "--yes")
    dropped = await krt("clean", *here, "--yes", "--drop")
    again = await krt("clean", *here)

    assert shown == (
        exits.OK,
        "consumer ocr__clean: 1 messages not handled\nbucket key-store_local_dev_flow_ocr\n"
        "nothing was removed: repeat with --yes --drop\n",
        "",
    )
    assert kept == (
        exits.FAILED,
        "consumer ocr__clean: kept, 1 messages are not handled; --drop gives them up\n"
        "bucket key-store_local_dev_flow_ocr: removed\n",
        "",
    )
    assert dropped == (exits.OK, "consumer ocr__clean: removed, 1 messages dropped\n", "")
    assert again == (exits.OK, f"nothing of removed nodes is left of {STREAM}\n", "")


async def test_a_workflow_that_is_gone_is_removed_as_a_whole_and_its_namesake_stays(
    krt: Krt, bus: NatsBus, nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(WORKFLOW.replace("name: flow", "name: flow-2").replace("ocr, ", "ocr, state: true, "))
    await Manager(bus, manager_spec(load(other), "local"), SystemClock()).apply()
    await bus.expiring_key_value(names.PRESENCE_BUCKET, ttl_s=EXPIRY_S)
    namesakes = await bus.buckets(), await bus.object_stores()
    here = ("--all", STREAM, "--nats", nats_server.url)

    shown = await krt("clean", *here)
    lacking = await krt("clean", *here, "--yes", "--data")
    removed = await krt("clean", *here, "--yes", "--data", "--drop")
    again = await krt("clean", *here)

    assert shown[0] == exits.OK and "consumer ocr__clean: 1 messages not handled\n" in shown[1]
    assert f"stream {STREAM}: 1 messages, " in shown[1]
    assert shown[1].endswith("nothing was removed: repeat with --yes --drop --data\n")
    assert lacking == (exits.FAILED, shown[1], "")
    assert removed[0] == exits.OK
    assert removed[1].splitlines()[-2:] == [f"stream {name}: removed with its messages" for name in (DEAD, STREAM)]
    assert again == (exits.OK, f"nothing is left of {STREAM}\n", "")
    kept = [[name for name in found if not is_of_flow(name)] for found in namesakes]
    assert [await bus.buckets(), await bus.object_stores()] == kept
    for stream in (f"{STREAM}-2", f"{STREAM}-2_dlq"):
        await bus.stream_state(stream)


async def test_a_workflow_with_a_live_process_is_not_removed(
    krt: Krt, bus: NatsBus, nats_server: EmbeddedServer
) -> None:
    record = replace(ServiceRecord.of_this_process(names.NODE, "clean", workflow="flow"), host="box", pid=7)
    key = names.presence_key(names.NODE, STREAM, "clean", record.instance)
    everything = ("--all", STREAM, "--nats", nats_server.url, "--yes", "--data", "--drop")

    async with Heartbeat(bus, names.PRESENCE_BUCKET, key, lambda: record, SystemClock()) as heartbeat:
        await heartbeat.beat()
        refused = await krt("clean", *everything)

    assert refused == (exits.FAILED, "nothing was removed: stop clean on box (process 7) first\n", "")
    assert (await bus.stream_state(STREAM)).messages == 1


async def test_a_workflow_that_somebody_reads_without_being_present_is_not_removed(
    krt: Krt, bus: NatsBus, nats_server: EmbeddedServer
) -> None:
    reader = bus.reader(ConsumerConfig(stream=STREAM, durable="clean__entrypoint", filter_subjects=()), create=False)
    await reader.start()
    waiting = asyncio.create_task(reader.take())
    async with asyncio.timeout(5):
        while not any(state.waiting for state in await bus.consumer_states(STREAM)):
            pass

    refused = await krt("clean", "--all", STREAM, "--nats", nats_server.url, "--yes", "--data", "--drop")

    waiting.cancel()
    assert refused == (exits.FAILED, "nothing was removed: stop whoever reads clean__entrypoint first\n", "")
    await reader.close()


def is_of_flow(name: str) -> bool:
    return STREAM in name and f"{STREAM}-2" not in name
