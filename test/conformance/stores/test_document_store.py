"""Runs the suite of document stores on every implementation."""

import secrets
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pymongo
import pytest

from runtime.stores.open import open_documents
from test.conformance.stores import document_store
from test.support.mongo import MongoServer
from test.support.mongo_wire import MongoStandin


@pytest.fixture(params=["sqlite", "mongo", "mongo_standin"])
def open_store(request: pytest.FixtureRequest) -> document_store.Open:
    opener: document_store.Open = request.getfixturevalue(f"open_{request.param}")
    return opener


@pytest.fixture
def open_sqlite(tmp_path: Path) -> document_store.Open:
    return lambda: open_documents(f"sqlite:///{tmp_path / 'store.db'}", "data")


@pytest.fixture
def open_mongo(mongo_server: MongoServer) -> Iterator[document_store.Open]:
    database = f"krt_test_{secrets.token_hex(8)}"
    yield lambda: open_documents(mongo_server.uri, database)
    with pymongo.MongoClient[dict[str, object]](mongo_server.uri) as client:
        client.drop_database(database)


@pytest.fixture
def open_mongo_standin(mongo_standin: MongoStandin) -> document_store.Open:
    """The stand-in too, whatever the other server is: the tests of faults rely on it."""
    return lambda: open_documents(mongo_standin.uri, "data")


@pytest.mark.parametrize("check", document_store.SUITE, ids=lambda check: check.__name__)
async def test_a_document_store_conforms(
    check: Callable[[document_store.Open], Awaitable[None]], open_store: document_store.Open
) -> None:
    await check(open_store)
