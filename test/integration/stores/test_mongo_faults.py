"""What the store does when MongoDB fails. On the stand-in `test/support/mongo_wire.py`, not MongoDB itself."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from runtime.errors import DocumentError, DuplicateDocumentError, QueryError, StoreError, StoreUnavailableError
from runtime.stores.base import Insert
from runtime.stores.mongo import MongoDocumentStore
from runtime.stores.request import check_answer, encode_request
from runtime.stores.writer import Writer
from test.support.mongo_wire import MongoStandin, duplicate_key, failure

ID = "0123456789abcdef01234567"
NOT_PRIMARY = failure(10107, "NotWritablePrimary", "not primary")


@contextlib.asynccontextmanager
async def opened(uri: str) -> AsyncIterator[MongoDocumentStore]:
    store = MongoDocumentStore(uri)
    try:
        yield store
    finally:
        await store.close()


async def insert(store: MongoDocumentStore, *documents: dict[str, Any], document_id: str = ID) -> list[Any]:
    return await store.insert_many([Insert(collection="c", document=d, document_id=document_id) for d in documents])


async def test_nothing_is_contacted_before_the_first_use(mongo_standin: MongoStandin) -> None:
    async with opened(mongo_standin.uri) as store:
        assert await store.insert_many([]) == []

    assert mongo_standin.connections == 0


async def test_a_batch_is_one_unordered_bulk_per_collection_confirmed_by_a_majority(
    mongo_standin: MongoStandin,
) -> None:
    inserts = [Insert(collection=name, document={"n": n}) for n, name in enumerate(["a", "b", "a"])]

    async with opened(mongo_standin.uri) as store:
        assert await store.insert_many(inserts) == [None, None, None]

    bulks = mongo_standin.named("insert")
    assert [(bulk["insert"], [document["n"] for document in bulk["documents"]]) for bulk in bulks] == [
        ("a", [0, 2]),
        ("b", [1]),
    ]
    assert [(bulk["ordered"], bulk["writeConcern"]["w"]) for bulk in bulks] == [(False, "majority")] * 2


async def test_a_connection_lost_in_mid_reply_is_hidden_and_the_document_stored_once(
    mongo_standin: MongoStandin,
) -> None:
    mongo_standin.cut("insert")

    async with opened(mongo_standin.uri) as store:
        outcomes = await insert(store, {"n": 1})
        found = await store.find("c", {})

    assert outcomes == [None]
    assert found == [{"_id": ID, "n": 1}]
    assert len(mongo_standin.named("insert")) == 2


async def test_a_connection_lost_again_is_worth_a_retry_and_the_retry_changes_nothing(
    mongo_standin: MongoStandin,
) -> None:
    mongo_standin.cut("insert", times=2)

    async with opened(mongo_standin.uri) as store:
        with pytest.raises(StoreUnavailableError, match=mongo_standin.address):
            await insert(store, {"n": 1})
        outcomes = await insert(store, {"n": 2})
        found = await store.find("c", {})

    assert outcomes == [None]
    assert found == [{"_id": ID, "n": 1}]


async def test_an_election_is_hidden(mongo_standin: MongoStandin) -> None:
    mongo_standin.answer("insert", NOT_PRIMARY | {"errorLabels": ["RetryableWriteError"]})

    async with opened(mongo_standin.uri) as store:
        assert await insert(store, {"n": 1}) == [None]
        assert await store.find("c", {}) == [{"_id": ID, "n": 1}]


async def test_a_server_that_stays_secondary_is_worth_a_retry(mongo_standin: MongoStandin) -> None:
    mongo_standin.answer("insert", NOT_PRIMARY | {"errorLabels": ["RetryableWriteError"]}, times=2)

    async with opened(mongo_standin.uri) as store:
        with pytest.raises(StoreUnavailableError, match=r"not primary$"):
            await insert(store, {"n": 1})


async def test_the_writer_asks_for_a_repetition_while_mongodb_fails_and_stores_it_once(
    mongo_standin: MongoStandin,
) -> None:
    mongo_standin.cut("insert", times=2)
    body = encode_request("c", {"n": 1})

    async with opened(mongo_standin.uri) as store:
        writer = Writer(store)
        running = asyncio.create_task(writer.run(), name="writer")
        with pytest.raises(StoreUnavailableError, match="connection closed"):
            check_answer(await writer.handle(body, ID))
        check_answer(await writer.handle(body, ID))
        await writer.close()
        await running
        found = await store.find("c", {})

    assert found == [{"_id": ID, "n": 1}]


async def test_a_search_survives_one_lost_connection_and_not_two(mongo_standin: MongoStandin) -> None:
    async with opened(mongo_standin.uri) as store:
        await insert(store, {"n": 1})

        mongo_standin.cut("find")
        assert await store.find("c", {}) == [{"_id": ID, "n": 1}]
        mongo_standin.cut("find", times=2)
        with pytest.raises(StoreUnavailableError):
            await store.find("c", {})


async def test_a_server_that_is_away_is_worth_a_retry_and_named_without_the_password() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]

    async with opened(f"mongodb://ann:secret@127.0.0.1:{port}/db?serverSelectionTimeoutMS=100") as store:
        with pytest.raises(StoreUnavailableError, match=rf"^mongodb://127\.0\.0\.1:{port}: .*refused") as refusal:
            await insert(store, {"n": 1})
        with pytest.raises(StoreUnavailableError, match="refused"):
            await store.find("c", {})

    assert "secret" not in str(refusal.value)
    assert "ann" not in str(refusal.value)


async def test_a_reply_that_never_comes_is_worth_a_retry(mongo_standin: MongoStandin) -> None:
    mongo_standin.hold("insert")
    mongo_standin.hold("insert")

    async with opened(f"{mongo_standin.uri}?socketTimeoutMS=100") as store:
        with pytest.raises(StoreUnavailableError, match="timed out"):
            await insert(store, {"n": 1})
        outcomes = await insert(store, {"n": 2})
        found = await store.find("c", {})

    assert outcomes == [None]
    assert found == [{"_id": ID, "n": 1}]


async def test_a_search_that_waits_leaves_the_loop_to_others(mongo_standin: MongoStandin) -> None:
    mongo_standin.hold("find")

    async with opened(f"{mongo_standin.uri}?socketTimeoutMS=100&retryReads=false") as store:
        searching = asyncio.create_task(store.find("c", {}))
        turns = 0
        while not searching.done():
            await asyncio.sleep(0.001)
            turns += 1
        with pytest.raises(StoreUnavailableError, match="timed out"):
            await searching

    assert turns > 10


async def test_a_cancelled_insert_leaves_the_store_usable(mongo_standin: MongoStandin) -> None:
    held = mongo_standin.hold("insert")

    async with opened(mongo_standin.uri) as store:
        task = asyncio.create_task(insert(store, {"n": 1}), name="cancelled insert")
        assert await asyncio.to_thread(held.arrived.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        held.released.set()

        assert await insert(store, {"n": 2}) == [None]
        assert await store.find("c", {}) == [{"_id": ID, "n": 1}]


async def test_a_failed_login_says_so_and_is_not_worth_a_retry(mongo_standin: MongoStandin) -> None:
    async with opened(f"mongodb://ann:secret@{mongo_standin.address}/") as store:
        with pytest.raises(StoreError, match="authentication failed; check user, password") as refusal:
            await insert(store, {"n": 1})

    assert not isinstance(refusal.value, StoreUnavailableError)
    assert "secret" not in str(refusal.value)


async def test_a_missing_right_names_the_role(mongo_standin: MongoStandin) -> None:
    mongo_standin.answer("insert", failure(13, "Unauthorized", "not authorized on data to execute command"))

    async with opened(mongo_standin.uri) as store:
        with pytest.raises(StoreError, match="grant it the role 'readWrite' on the database 'data'") as refusal:
            await insert(store, {"n": 1})

    assert not isinstance(refusal.value, StoreUnavailableError)


async def test_a_write_without_a_majority_is_not_answered_as_stored(mongo_standin: MongoStandin) -> None:
    concern = {"code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting for replication timed out"}
    mongo_standin.answer("insert", {"ok": 1.0, "n": 1, "writeConcernError": concern})

    async with opened(mongo_standin.uri) as store:
        with pytest.raises(StoreUnavailableError, match="no majority has the documents yet: waiting for replication"):
            await insert(store, {"n": 1})


async def test_a_repeat_is_told_from_a_conflict_in_another_unique_index(mongo_standin: MongoStandin) -> None:
    mongo_standin.answer("insert", {"ok": 1.0, "n": 0, "writeErrors": [duplicate_key(0, "order")]})

    async with opened(mongo_standin.uri) as store:
        (outcome,) = await insert(store, {"order": 1})

    assert isinstance(outcome, DuplicateDocumentError)
    assert str(outcome) == "a unique index of collection 'c' holds another document with the same 'order'"


async def test_each_document_gets_its_own_error(mongo_standin: MongoStandin) -> None:
    errors = [
        {"index": 1, "code": 121, "errmsg": "Document failed validation"},
        {"index": 2, "code": 11602, "errmsg": "interrupted due to an election"},
    ]
    mongo_standin.answer("insert", {"ok": 1.0, "n": 2, "writeErrors": errors})

    async with opened(mongo_standin.uri) as store:
        outcomes = await insert(store, {"n": float("nan")}, *({"n": n} for n in range(4)), document_id="")

    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [DocumentError, type(None), DocumentError, StoreUnavailableError, type(None)]
    assert str(outcomes[2]) == "collection 'c' refuses the document: Document failed validation"


async def test_a_collection_that_the_server_refuses_fails_no_other(mongo_standin: MongoStandin) -> None:
    mongo_standin.answer("insert", failure(73, "InvalidNamespace", "Fully qualified namespace is too long"))
    names = ["x" * 300, "a..b", "good"]

    async with opened(mongo_standin.uri) as store:
        outcomes = await store.insert_many([Insert(collection=name, document={"n": 1}) for name in names])

    assert [type(outcome) for outcome in outcomes] == [DocumentError, DocumentError, type(None)]


async def test_a_key_that_bson_cannot_hold_is_refused_alone(mongo_standin: MongoStandin) -> None:
    async with opened(mongo_standin.uri) as store:
        outcomes = await insert(store, {"a\0b": 1}, {"a.b": 1, "$c": 2, "": 3})
        found = await store.find("c", {})

    assert [type(outcome) for outcome in outcomes] == [DocumentError, type(None)]
    assert found == [{"_id": ID, "a.b": 1, "$c": 2, "": 3}]


async def test_a_pattern_that_only_python_takes_is_a_query_error(mongo_standin: MongoStandin) -> None:
    mongo_standin.answer("find", failure(51091, "Location51091", "Regular expression is invalid"))

    async with opened(mongo_standin.uri) as store:
        with pytest.raises(QueryError, match="MongoDB does not take this query: Regular expression is invalid"):
            await store.find("c", {"text": {"$regex": "(?P<a>x)(?(a)y|z)"}})


async def test_a_collection_or_key_of_a_search_that_is_none_is_a_query_error(mongo_standin: MongoStandin) -> None:
    async with opened(mongo_standin.uri) as store:
        with pytest.raises(QueryError, match=r"collection 'a\.\.b' cannot be searched so"):
            await store.find("a..b", {})
        with pytest.raises(QueryError, match="NUL"):
            await store.find("c", {"a\0": 1})
