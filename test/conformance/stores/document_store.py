"""What every `DocumentStore` has to show. Each function gets a way to open the same, at first empty, store again."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from runtime.errors import DocumentError, DuplicateDocumentError, QueryError, StoreError
from runtime.stores.base import Document, DocumentStore, Insert

# Opens the store under test; every call gives another client of the same data. The caller closes it.
Open = Callable[[], DocumentStore]

ID = "0123456789abcdef01234567"
OTHER_ID = "fedcba987654321001234567"


async def insert(store: DocumentStore, document: Document, document_id: str = "", collection: str = "c") -> Any:
    (outcome,) = await store.insert_many([Insert(collection=collection, document=document, document_id=document_id)])
    return outcome


async def a_document_comes_back_with_its_types_and_key_order(open_store: Open) -> None:
    store = open_store()
    document = {
        "z": 1,
        "a": 1.0,
        "big": 2**53 + 1,
        "largest": 2**63 - 1,
        "smallest": -(2**63),
        "tiny": 5e-324,
        "yes": True,
        "no": None,
        "text": "é \U0001f600 \x00 \u2028",
        "nested": {"y": [1, 1.0, {"x": []}], "b": {}},
    }

    outcome = await insert(store, document, ID)

    assert outcome is None
    (found,) = await store.find("c", {})
    assert repr(found) == repr({"_id": ID, **document})
    await store.close()


async def a_repeat_with_the_same_document_id_is_a_success_and_changes_nothing(open_store: Open) -> None:
    store = open_store()

    outcomes = [await insert(store, {"n": 1}, ID), await insert(store, {"n": 2}, ID)]

    assert outcomes == [None, None]
    assert await store.find("c", {}) == [{"_id": ID, "n": 1}]
    await store.close()


async def a_repeat_within_one_batch_is_stored_once(open_store: Open) -> None:
    store = open_store()
    inserts = [Insert(collection="c", document={"n": n}, document_id=ID) for n in (1, 2)]

    outcomes = await store.insert_many(inserts)

    assert outcomes == [None, None]
    assert await store.find("c", {}) == [{"_id": ID, "n": 1}]
    await store.close()


async def an_own_id_is_kept_and_wins_over_the_document_id(open_store: Open) -> None:
    store = open_store()

    outcomes = [await insert(store, {"n": 1, "_id": 7}, ID), await insert(store, {"_id": "seven", "n": 2}, OTHER_ID)]

    assert outcomes == [None, None]
    assert await store.find("c", {}) == [{"_id": 7, "n": 1}, {"_id": "seven", "n": 2}]
    assert list((await store.find("c", {"_id": 7}))[0]) == ["_id", "n"]
    await store.close()


async def an_own_id_with_the_same_content_again_is_a_success(open_store: Open) -> None:
    store = open_store()

    outcomes = [await insert(store, {"_id": "x", "n": 1}, ID), await insert(store, {"_id": "x", "n": 1}, OTHER_ID)]

    assert outcomes == [None, None]
    assert await store.find("c", {}) == [{"_id": "x", "n": 1}]
    await store.close()


async def an_own_id_with_another_content_is_a_duplicate(open_store: Open) -> None:
    store = open_store()
    await insert(store, {"_id": "x", "n": 1})

    outcome = await insert(store, {"_id": "x", "n": 1.5})

    assert isinstance(outcome, DuplicateDocumentError)
    assert await store.find("c", {}) == [{"_id": "x", "n": 1}]
    await store.close()


async def a_document_without_any_id_gets_one(open_store: Open) -> None:
    store = open_store()

    outcomes = [await insert(store, {"n": 1}), await insert(store, {"n": 1})]

    assert outcomes == [None, None]
    first, second = await store.find("c", {"n": 1})
    assert first["_id"] != second["_id"]
    await store.close()


async def a_failing_document_fails_no_other(open_store: Open) -> None:
    store = open_store()
    await insert(store, {"_id": 1, "n": 0})
    documents: list[Document] = [
        {"n": 1},
        {"_id": 1, "n": 9},
        {"n": float("nan")},
        {"_id": [1]},
        {"n": 2**63},
        {"n": 2},
    ]

    outcomes = await store.insert_many([Insert(collection="c", document=document) for document in documents])

    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [
        type(None), DuplicateDocumentError, DocumentError, DocumentError, DocumentError, type(None),
    ]  # fmt: skip
    assert [document["n"] for document in await store.find("c", {})] == [0, 1, 2]
    await store.close()


async def a_document_beyond_16_mib_is_refused(open_store: Open) -> None:
    store = open_store()

    outcome = await insert(store, {"text": "x" * (16 * 1024 * 1024)})

    assert isinstance(outcome, DocumentError)
    assert await store.find("c", {}) == []
    await store.close()


async def nothing_inserted_is_nothing_answered(open_store: Open) -> None:
    store = open_store()

    assert await store.insert_many([]) == []
    await store.close()


async def documents_are_found_in_order_of_insertion(open_store: Open) -> None:
    store = open_store()
    ids = [f"{9 - n:024x}" for n in range(10)]
    await store.insert_many([Insert(collection="c", document={"n": n}, document_id=ids[n]) for n in range(10)])

    found = await store.find("c", {"n": {"$gte": 3}}, limit=4)

    assert [document["n"] for document in found] == [3, 4, 5, 6]
    assert len(await store.find("c", {}, limit=0)) == 10
    await store.close()


async def collections_are_apart(open_store: Open) -> None:
    store = open_store()
    await insert(store, {"n": 1}, ID, collection="one")
    await insert(store, {"n": 2}, ID, collection="two")

    assert await store.find("one", {}) == [{"_id": ID, "n": 1}]
    assert await store.find("none", {}) == []
    await store.close()


async def an_id_is_found_by_its_type(open_store: Open) -> None:
    store = open_store()
    for own_id in (1, "1", "one"):
        await insert(store, {"_id": own_id})

    assert await store.find("c", {"_id": 1}) == [{"_id": 1}]
    assert await store.find("c", {"_id": "1"}) == [{"_id": "1"}]
    assert await store.find("c", {"_id": {"$in": ["one", 1]}}) == [{"_id": 1}, {"_id": "one"}]
    assert await store.find("c", {"_id": 2}) == []
    await store.close()


async def a_document_id_is_found(open_store: Open) -> None:
    store = open_store()
    await insert(store, {"n": 1}, ID)

    found = await store.find("c", {"_id": ID})

    assert [document["n"] for document in found] == [1]
    await store.close()


async def a_query_is_answered_or_refused(open_store: Open) -> None:
    store = open_store()
    await insert(store, {"tags": ["new"], "age": 20})

    assert len(await store.find("c", {"age": {"$gt": 18}, "tags": "new"})) == 1
    with pytest.raises(QueryError):
        await store.find("c", {"place": {"$nowhere": 1}})
    await store.close()


async def another_client_sees_what_was_answered(open_store: Open) -> None:
    writer, reader = open_store(), open_store()
    assert await reader.find("c", {}) == []

    await insert(writer, {"n": 1}, ID)

    assert await reader.find("c", {"n": 1}) == [{"_id": ID, "n": 1}]
    await writer.close()
    await reader.close()


async def clients_that_write_at_once_lose_nothing(open_store: Open) -> None:
    stores = [open_store() for _ in range(3)]

    async def fill(number: int) -> None:
        for batch in range(10):
            start = batch * 20
            ids = [f"{number:04x}{n:020x}" for n in range(start, start + 20)]
            inserts = [Insert(collection="c", document={"by": number}, document_id=own_id) for own_id in ids]
            assert await stores[number].insert_many(inserts) == [None] * 20

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(fill(number))

    found = await stores[0].find("c", {})
    assert [sum(document["by"] == number for document in found) for number in range(3)] == [200, 200, 200]
    for store in stores:
        await store.close()


async def a_cancelled_insert_leaves_the_store_usable(open_store: Open) -> None:
    store = open_store()
    await store.find("c", {})
    task = asyncio.ensure_future(insert(store, {"n": 1}, ID))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert await insert(store, {"n": 1}, ID) is None
    assert await store.find("c", {}) == [{"_id": ID, "n": 1}]
    await store.close()


async def a_closed_store_says_so(open_store: Open) -> None:
    store = open_store()
    await insert(store, {"n": 1})
    await store.close()
    await store.close()

    with pytest.raises(StoreError, match="closed"):
        await store.find("c", {})
    with pytest.raises(StoreError, match="closed"):
        await insert(store, {"n": 1})


SUITE = [
    a_document_comes_back_with_its_types_and_key_order,
    a_repeat_with_the_same_document_id_is_a_success_and_changes_nothing,
    a_repeat_within_one_batch_is_stored_once,
    an_own_id_is_kept_and_wins_over_the_document_id,
    an_own_id_with_the_same_content_again_is_a_success,
    an_own_id_with_another_content_is_a_duplicate,
    a_document_without_any_id_gets_one,
    a_failing_document_fails_no_other,
    a_document_beyond_16_mib_is_refused,
    nothing_inserted_is_nothing_answered,
    documents_are_found_in_order_of_insertion,
    collections_are_apart,
    an_id_is_found_by_its_type,
    a_document_id_is_found,
    a_query_is_answered_or_refused,
    another_client_sees_what_was_answered,
    clients_that_write_at_once_lose_nothing,
    a_cancelled_insert_leaves_the_store_usable,
    a_closed_store_says_so,
]
