"""Writer and manager are killed with SIGKILL at every await that matters: no document and no message is lost."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from runtime.bus.base import Confirmation, ConsumerConfig
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.clock import SystemClock
from runtime.errors import NotFoundError
from runtime.spec import names
from runtime.spec.manager import ConsumerSpec, ManagerSpec
from runtime.stores import documents
from runtime.stores.documents import DocumentClient, derive_id
from runtime.stores.open import open_documents
from test.support.kill_at import MANAGER_POINTS, WRITER_POINTS

pytestmark = pytest.mark.attack

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(nats_server: EmbeddedServer, tmp_path: Path) -> Iterator[Start]:
    """Start a process of the runtime; with `point` it kills itself there, the `passes`th time that it comes by."""
    children: list[subprocess.Popen[bytes]] = []
    variables = {
        "KRT_NATS_SERVER": nats_server.url,
        "KRT_NATS_MONGO_WRITER": names.WRITER_SUBJECT,
        "KRT_MONGO_URI": f"sqlite:///{tmp_path / 'documents.db'}",
        "KRT_MANAGER_SPEC": SPEC.model_dump_json(),
    }

    def start(kind: str, point: str = "", passes: int = 1) -> subprocess.Popen[bytes]:
        module = ("test.support.kill_at", point, str(passes)) if point else ("runtime",)
        with (tmp_path / "process.log").open("ab") as log:
            command = [sys.executable, "-m", *module, kind]
            children.append(
                subprocess.Popen(command, cwd=ROOT, env={**os.environ, **variables}, stdout=log, stderr=log)
            )
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()
    print(f"log of the processes:\n{(tmp_path / 'process.log').read_text()[-4000:]}")


@pytest.fixture
async def bus(nats_server: EmbeddedServer) -> AsyncIterator[NatsBus]:
    bus = await NatsBus.connect([nats_server.url], name="test")
    yield bus
    await bus.close()


async def exit_code(child: subprocess.Popen[bytes]) -> int:
    return await asyncio.wait_for(asyncio.to_thread(child.wait), PATIENCE_S)


# --- the writer ---

DOCUMENTS = 60


@pytest.mark.parametrize("point", WRITER_POINTS)
async def test_a_writer_killed_at_any_point_stores_each_document_once(
    start: Start, bus: NatsBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setattr(documents, "ANSWER_TIMEOUT_S", 1.0)
    victim = start("writer", point, 1 if "batch" in point else 20)
    client = document_client(bus)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as saves:
        for number in range(DOCUMENTS):
            document_id = derive_id("s", number, f"r{number}", "work", 0)
            saves.create_task(client.save("scores", {"number": number}, document_id=document_id))
        assert await exit_code(victim) == -9

        start("writer")

    store = open_documents(f"sqlite:///{tmp_path / 'documents.db'}")
    found = await store.find("scores", {"number": {"$gte": 0}})
    await store.close()
    assert sorted(document["number"] for document in found) == list(range(DOCUMENTS))


def document_client(bus: NatsBus) -> DocumentClient:
    async def request(subject: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> bytes:
        return (await bus.request(subject, body, headers=headers, timeout_s=timeout_s)).data

    return DocumentClient(
        request,
        names.WRITER_SUBJECT,
        SystemClock(),
        id_header=names.DOCUMENT_ID_HEADER,
        limit_bytes=lambda: bus.max_payload_bytes,
    )


# --- the manager ---

STREAM = "local_dev_flow"
MESSAGES, HANDLED = 80, 50
SPEC = ManagerSpec(
    stream=STREAM,
    subjects=(f"{STREAM}.>",),
    storage="file",
    replicas=1,
    max_bytes=100_000,
    keep_s=0,
    duplicate_window_s=120,
    consumers=(
        ConsumerSpec(durable="clean__entrypoint", filter_subjects=(f"{STREAM}.entrypoint",)),
        ConsumerSpec(durable="score__clean", filter_subjects=(f"{STREAM}.clean",)),
    ),
    dead_letters=None,
    buckets={f"attempts_{STREAM}": {}},
    applied_bucket=f"applied_{STREAM}",
)
CLEAN = ConsumerConfig(stream=STREAM, durable="clean__entrypoint", filter_subjects=SPEC.consumers[0].filter_subjects)


@pytest.mark.parametrize("point", MANAGER_POINTS)
async def test_a_manager_killed_at_any_point_is_replaced_and_purges_only_what_is_handled(
    start: Start, bus: NatsBus, point: str
) -> None:
    purging = "purge" in point
    victim = start("manager", point)
    if not purging:
        assert await exit_code(victim) == -9
        start("manager")
    await topology_stands(bus)
    await feed(bus)
    await handle(bus, HANDLED)
    if purging:
        assert await exit_code(victim) == -9
        start("manager")

    await purged(bus)

    state = await bus.stream_state(STREAM)
    assert (state.first_sequence, state.messages) == (HANDLED + 1, MESSAGES - HANDLED)
    assert len(await handle(bus, MESSAGES - HANDLED)) == MESSAGES - HANDLED


async def topology_stands(bus: NatsBus) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                if len(await bus.consumer_states(STREAM)) == len(SPEC.consumers):
                    return
            except NotFoundError:
                pass
            await asyncio.sleep(0.05)


async def purged(bus: NatsBus) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if (await bus.stream_state(STREAM)).first_sequence > HANDLED:
                return
            await asyncio.sleep(0.05)


async def feed(bus: NatsBus) -> None:
    publisher = bus.publisher(STREAM)
    for number in range(MESSAGES):
        stored = Confirmation()
        await publisher.publish(f"{STREAM}.entrypoint", b"x" * 500, message_id=f"m{number}", confirm=stored)
        await stored
    await publisher.close()


async def handle(bus: NatsBus, count: int) -> set[int]:
    """Take and acknowledge so many messages; returns their sequences."""
    reader = bus.reader(CLEAN, create=False)
    await reader.start()
    seen = set()
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(count):
            delivery = await reader.take()
            seen.add(delivery.sequence)
            reader.ack(delivery)
    await reader.close()
    return seen
