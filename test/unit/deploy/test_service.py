"""The runtime's own processes without their sockets: the writer's desk on the in-memory bus, and the manager's spec."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from runtime.bus.memory import MemoryBroker, MemoryBus
from runtime.clock import FakeClock, settle
from runtime.deploy.manager_service import read_manager_spec
from runtime.deploy.writer_service import WriterDesk
from runtime.errors import BusUnavailableError, NoRespondersError, SettingsError
from runtime.spec import names
from runtime.stores.base import Document, Insert
from runtime.stores.writer import Writer

DOCUMENT_ID = "0123456789abcdef01234567"
SUBJECT = names.WRITER_SUBJECT


class HeldStore:
    """Keeps inserts in memory, as soon as `released` is set."""

    def __init__(self) -> None:
        self.inserts: list[Insert] = []
        self.released = asyncio.Event()
        self.released.set()

    async def insert_many(self, inserts: Sequence[Insert]) -> list[Exception | None]:
        await self.released.wait()
        self.inserts += inserts
        return [None] * len(inserts)

    async def find(self, collection: str, query: Mapping[str, Any], *, limit: int = 0) -> list[Document]:
        raise NotImplementedError

    async def close(self) -> None:
        self.released.set()


@pytest.fixture
async def store() -> HeldStore:
    return HeldStore()


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBroker(FakeClock()).connect()


@pytest.fixture
async def desk(store: HeldStore, bus: MemoryBus) -> AsyncIterator[WriterDesk]:
    desk = await WriterDesk.open(Writer(store), bus, SUBJECT)
    yield desk
    await store.close()
    await desk.close(grace_s=1)


def request(number: int) -> bytes:
    return json.dumps({"coll": "seen", "doc": {"n": number}}).encode()


@pytest.mark.usefixtures("desk")
async def test_a_request_is_stored_under_its_id_and_answered(store: HeldStore, bus: MemoryBus) -> None:
    headers = {names.DOCUMENT_ID_HEADER: DOCUMENT_ID}

    answer = await bus.request(SUBJECT, request(1), timeout_s=1, headers=headers)

    assert json.loads(answer.data)["success"] is True
    assert store.inserts == [Insert(collection="seen", document={"n": 1}, document_id=DOCUMENT_ID)]


@pytest.mark.usefixtures("desk")
async def test_a_request_that_cannot_be_read_is_answered_too(bus: MemoryBus) -> None:
    answer = await bus.request(SUBJECT, b"nonsense", timeout_s=1)

    assert json.loads(answer.data)["success"] is False


async def test_what_has_arrived_is_stored_and_answered_before_the_end(
    desk: WriterDesk, store: HeldStore, bus: MemoryBus
) -> None:
    store.released.clear()
    asked = asyncio.gather(*(bus.request(SUBJECT, request(number), timeout_s=1) for number in range(3)))
    await settle()

    closing = asyncio.create_task(desk.close(grace_s=5))
    await settle()
    store.released.set()
    await closing

    assert [json.loads(answer.data)["success"] for answer in await asked] == [True] * 3
    assert [insert.document["n"] for insert in store.inserts] == [0, 1, 2]


async def test_a_closed_desk_takes_nothing(desk: WriterDesk, bus: MemoryBus) -> None:
    await desk.close(grace_s=1)

    with pytest.raises((NoRespondersError, BusUnavailableError)):
        await bus.request(SUBJECT, request(1), timeout_s=1)


async def test_two_writers_share_the_requests(desk: WriterDesk, store: HeldStore, bus: MemoryBus) -> None:
    other = await WriterDesk.open(Writer(store), bus, SUBJECT)

    for number in range(10):
        await bus.request(SUBJECT, request(number), timeout_s=1)

    assert len(store.inserts) == 10
    await other.close(grace_s=1)


def test_every_fault_of_the_managers_spec_is_named() -> None:
    with pytest.raises(SettingsError) as raised:
        read_manager_spec('{"stream": "s", "max_bytes": 0}')

    assert any("wrong at max_bytes: " in problem for problem in raised.value.problems)
    assert any("wrong at consumers: " in problem for problem in raised.value.problems)


def test_a_spec_that_is_no_json_is_refused() -> None:
    with pytest.raises(SettingsError, match="wrong at its start: Invalid JSON"):
        read_manager_spec("{")


def test_a_writer_does_not_wait_for_the_imports_of_a_manager() -> None:
    program = "import runtime.cli.processes, runtime.deploy.writer_service, sys; print(*sys.modules)"

    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert {"pydantic", "runtime.deploy.manager"} & set(imported.split()) == set()
