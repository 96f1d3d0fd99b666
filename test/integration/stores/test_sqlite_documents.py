"""SQLite's own hazards: several processes on one file, a process killed after its answer, and files that fail."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runtime.errors import StoreError, StoreUnavailableError
from runtime.stores.base import Insert
from runtime.stores.sqlite import SqliteDocumentStore
from runtime.stores.sqlite_file import store_error
from test.unit.stores.naive_matcher import matches
from test.unit.stores.query_strategies import documents, narrowed_queries, queries, scalars

ROOT = Path(__file__).parents[3]

# Writes batches of ten for ever, and prints a batch's number once the store has answered.
ENDLESS_WRITER = """
    import asyncio, sys
    from runtime.stores.base import Insert
    from runtime.stores.sqlite import SqliteDocumentStore

    async def main() -> None:
        store = SqliteDocumentStore(sys.argv[1])
        batch = 0
        while True:
            inserts = [Insert(collection="c", document={"batch": batch, "n": n}) for n in range(10)]
            assert await store.insert_many(inserts) == [None] * 10
            print(batch, flush=True)
            batch += 1

    asyncio.run(main())
"""

# Opens a file that may not exist yet, together with others, and writes a number of single documents.
BUSY_PROCESS = """
    import asyncio, sys
    from runtime.stores.base import Insert
    from runtime.stores.sqlite import SqliteDocumentStore

    async def main() -> None:
        store = SqliteDocumentStore(sys.argv[1])
        sys.stdin.readline()
        for n in range(50):
            assert await store.insert_many([Insert(collection="c", document={"by": sys.argv[2], "n": n})]) == [None]
            assert len(await store.find("c", {"by": sys.argv[2]})) == n + 1
        await store.close()

    asyncio.run(main())
"""


@contextlib.contextmanager
def python(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_what_was_answered_survives_kill_9(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    with python(ENDLESS_WRITER, path) as process:
        assert process.stdout is not None
        answered = [int(process.stdout.readline()) for _ in range(20)]

        os.kill(process.pid, signal.SIGKILL)
        answered += [int(line) for line in process.stdout.read().split()]

    store = SqliteDocumentStore(path)
    found = [document["batch"] for document in await store.find("c", {})]
    await store.close()
    assert answered == list(range(len(answered)))
    assert [found.count(batch) for batch in answered] == [10] * len(answered)
    # One batch may have been stored without its answer, never a part of one.
    assert len(found) in (10 * len(answered), 10 * len(answered) + 10)


async def test_processes_that_open_a_new_file_at_once_all_write_and_read(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(python(BUSY_PROCESS, path, str(number))) for number in range(4)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

        codes = [process.wait(timeout=50) for process in processes]

    store = SqliteDocumentStore(path)
    found = await store.find("c", {})
    await store.close()
    assert codes == [0] * 4
    assert [sum(document["by"] == str(number) for document in found) for number in range(4)] == [50] * 4


async def test_a_reader_reads_while_a_process_holds_the_write_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    store = SqliteDocumentStore(path, busy_timeout_s=0.05)
    await store.insert_many([Insert(collection="c", document={"_id": 1})])

    with locked(path):
        found = await store.find("c", {})
        with pytest.raises(
            StoreUnavailableError, match=r"store\.db: database is locked; another process holds the file"
        ):
            await store.insert_many([Insert(collection="c", document={"_id": 2})])

    assert found == [{"_id": 1}]
    assert await store.insert_many([Insert(collection="c", document={"_id": 2})]) == [None]
    assert await store.find("c", {}) == [{"_id": 1}, {"_id": 2}]
    await store.close()


async def test_databases_in_one_file_are_apart(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    one, two = SqliteDocumentStore(path, "one"), SqliteDocumentStore(path, "two")

    await one.insert_many([Insert(collection="c", document={"_id": 1, "in": "one"})])
    await two.insert_many([Insert(collection="c", document={"_id": 1, "in": "two"})])

    assert await one.find("c", {}) == [{"_id": 1, "in": "one"}]
    assert await two.find("c", {"_id": 1}) == [{"_id": 1, "in": "two"}]
    await one.close()
    await two.close()


async def test_a_file_that_is_no_database_is_named_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"no database " * 100)
    store = SqliteDocumentStore(str(path))

    with pytest.raises(StoreError, match=r"store\.db: file is not a database; .*move the file away") as failure:
        await store.find("c", {})

    assert not isinstance(failure.value, StoreUnavailableError)
    await store.close()


async def test_a_damaged_file_is_named_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteDocumentStore(str(path))
    await store.insert_many([Insert(collection="c", document={"text": "x" * 1_000}) for _ in range(100)])
    await store.close()
    damage = path.read_bytes()
    path.write_bytes(damage[:4096] + b"\xff" * (len(damage) - 4096))

    with pytest.raises(StoreError, match=r"store\.db: .*the file is damaged: restore it") as failure:
        await SqliteDocumentStore(str(path)).find("c", {})

    assert not isinstance(failure.value, StoreUnavailableError)


async def test_a_missing_folder_is_named_and_the_store_works_once_it_is_there(tmp_path: Path) -> None:
    store = SqliteDocumentStore(str(tmp_path / "missing" / "store.db"))
    with pytest.raises(StoreError, match=r"unable to open database file; .*check that its folder exists"):
        await store.find("c", {})

    (tmp_path / "missing").mkdir()

    assert await store.find("c", {}) == []
    await store.close()


def test_a_full_disk_is_worth_a_retry(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "full.db")) as connection:
        connection.execute("PRAGMA max_page_count = 2")
        connection.execute("CREATE TABLE t (a)")
        with pytest.raises(sqlite3.Error) as failure:
            connection.execute("INSERT INTO t VALUES (zeroblob(100000))")

    error = store_error(failure.value, "full.db")

    assert isinstance(error, StoreUnavailableError)
    assert str(error) == "full.db: database or disk is full; the disk is full: free some space"


def test_a_read_only_file_needs_a_person(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "read.db").executescript("CREATE TABLE t (a)").connection.close()
    with contextlib.closing(sqlite3.connect(f"file:{tmp_path / 'read.db'}?mode=ro", uri=True)) as connection:
        with pytest.raises(sqlite3.Error) as failure:
            connection.execute("INSERT INTO t VALUES (1)")

    error = store_error(failure.value, "read.db")

    assert not isinstance(error, StoreUnavailableError)
    assert "check the rights of the file and of its folder" in str(error)


async def test_searching_in_order_needs_no_sorting(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteDocumentStore(str(path))
    await store.insert_many([Insert(collection="c", document={"n": n}) for n in range(10)])
    await store.close()

    with contextlib.closing(sqlite3.connect(path)) as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT body FROM documents WHERE database = ? AND collection = ? ORDER BY seq", ("", "")
        ).fetchall()

    assert [step[3] for step in plan] == [
        "SEARCH documents USING INDEX documents_in_order (database=? AND collection=?)"
    ]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stored=st.lists(documents, max_size=8), asked=st.lists(narrowed_queries | queries, min_size=5, max_size=5))
async def test_a_search_finds_what_the_independent_matcher_finds(
    tmp_path: Path, stored: list[dict[str, Any]], asked: list[dict[str, Any]]
) -> None:
    (tmp_path / "store.db").unlink(missing_ok=True)
    store = SqliteDocumentStore(str(tmp_path / "store.db"))
    kept = [{"_id": number, **document} for number, document in enumerate(stored)]
    await store.insert_many([Insert(collection="c", document=document) for document in kept])

    found = [await store.find("c", query) for query in asked]

    assert found == [[document for document in kept if matches(document, query)] for query in asked]
    await store.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=4) | scalars, min_size=1, max_size=6))
@example(texts=["a\x00b", "a"])
async def test_any_text_or_number_is_found_by_equality(tmp_path: Path, texts: list[Any]) -> None:
    (tmp_path / "store.db").unlink(missing_ok=True)
    store = SqliteDocumentStore(str(tmp_path / "store.db"))
    kept = [{"_id": number, "a": {"b": text}} for number, text in enumerate(texts)]
    await store.insert_many([Insert(collection="c", document=document) for document in kept])

    found = [await store.find("c", {"a.b": text}) for text in texts]

    assert found == [[document for document in kept if matches(document, {"a.b": text})] for text in texts]
    await store.close()


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the file's write lock, as another process would."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")
