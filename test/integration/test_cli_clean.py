"""`krt clean` on a real server, after a node was removed from the workflow file."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.bus.base import Confirmation
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.cli import exits
from runtime.clock import SystemClock
from runtime.deploy.manager import Manager
from runtime.deploy.manager_spec import manager_spec
from runtime.spec.load import load
from test.integration.test_cli_client import Krt

WORKFLOW = """
name: flow
nodes:
  - {name: clean, handler: handler.py}
  - {name: ocr, handler: handler.py}
"""
STREAM = "local_dev_flow"
STATES, PAGES = f"state_{STREAM}_ocr", f"{STREAM}_pages"


@pytest.fixture
async def krt(nats_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Krt]:
    """The workflow as it was with the node ocr, one message of which is not handled; the file has it no more."""
    (tmp_path / "handler.py").write_text("def handler(ctx, data): return data\n")
    file = tmp_path / "workflow.yaml"
    file.write_text(WORKFLOW)
    bus = await NatsBus.connect([nats_server.url], name="manager")
    await Manager(bus, manager_spec(load(file), "local"), SystemClock()).apply()
    publisher, stored = bus.publisher(STREAM), Confirmation()
    await publisher.publish(f"{STREAM}.clean", b"", message_id="1", confirm=stored)
    await stored
    file.write_text(WORKFLOW.replace("  - {name: ocr, handler: handler.py}\n", ""))
    yield Krt(tmp_path)
    await publisher.close()
    await bus.close()


async def test_data_is_shown_with_its_size_and_removed_on_a_request_of_its_own(
    nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    krt, here = Krt(tmp_path), (".", "--nats", nats_server.url)
    (tmp_path / "handler.py").write_text("def handler(ctx, data): return data\n")
    file = tmp_path / "workflow.yaml"
    with_data = WORKFLOW.replace("ocr, ", "ocr, state: true, object_store: pages, ") + "objects: {pages: {}}\n"
    file.write_text(with_data)
    bus = await NatsBus.connect([nats_server.url], name="manager")
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
    await bus.close()


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
