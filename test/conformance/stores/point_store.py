"""What every `PointStore` has to show. Each function gets a way to open the same, at first empty, store again."""

import asyncio
import threading
from collections.abc import Callable

from runtime.stores.base import Point, PointCounts, PointStore

# Opens the store under test; every call gives another client of the same data. The caller closes it.
Open = Callable[[], PointStore]


def point(n: int, measurement: str = "m") -> Point:
    return Point(measurement, {"n": n}, {"node": "score"}, 1_700_000_000_000_000_000 + n)


async def stored(open_store: Open, measurement: str = "m", limit: int = 0) -> list[Point]:
    reader = open_store()
    points = await reader.query(measurement, limit=limit)
    await reader.close()
    return points


async def a_point_comes_back_with_its_types(open_store: Open) -> None:
    store = open_store()
    fields: dict[str, float | int | bool | str] = {"whole": 2**53 + 1, "float": 1.0, "yes": True, "text": "é"}
    saved = Point("m", fields, {"node": "score", "version": "v1"}, 1_700_000_000_123_456_789)

    store.save(saved)
    await store.close()

    (found,) = await stored(open_store)
    assert repr(sorted(found.fields.items())) == repr(sorted(fields.items()))
    assert (found.measurement, dict(found.tags), found.time_ns) == ("m", saved.tags, saved.time_ns)


async def points_come_oldest_first_whatever_the_order_of_saving(open_store: Open) -> None:
    store = open_store()
    for n in (3, 1, 2):
        store.save(point(n))
    await store.close()

    assert [found.fields["n"] for found in await stored(open_store)] == [1, 2, 3]
    assert [found.fields["n"] for found in await stored(open_store, limit=2)] == [1, 2]


async def measurements_are_apart(open_store: Open) -> None:
    store = open_store()
    store.save(point(1, "one"))
    store.save(point(2, "two"))
    await store.close()

    assert [found.fields["n"] for found in await stored(open_store, "one")] == [1]
    assert await stored(open_store, "none") == []


async def closing_writes_everything_and_counts_it(open_store: Open) -> None:
    store = open_store()
    for n in range(2_500):
        store.save(point(n))

    await store.close()

    assert store.counts == PointCounts(written=2_500, retried=0, dropped=0)
    assert len(await stored(open_store)) == 2_500


async def points_may_be_saved_from_any_thread(open_store: Open) -> None:
    store = open_store()

    def save_many() -> None:
        for n in range(200):
            store.save(point(n))

    threads = [threading.Thread(target=save_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    await store.close()

    assert store.counts.written == 800


async def a_point_without_fields_is_dropped_and_counted(open_store: Open) -> None:
    store = open_store()

    store.save(Point("m", {}, {"node": "score"}, 1))
    await store.close()

    assert store.counts == PointCounts(written=0, retried=0, dropped=1)


async def a_point_after_closing_is_dropped_and_counted(open_store: Open) -> None:
    store = open_store()
    store.save(point(1))
    await store.close()
    await store.close()

    store.save(point(2))

    assert store.counts == PointCounts(written=1, retried=0, dropped=1)


async def written_points_are_there_at_once_and_counted(open_store: Open) -> None:
    store = open_store()

    await store.write([point(1), point(2)])

    assert [found.fields["n"] for found in await stored(open_store)] == [1, 2]
    assert store.counts == PointCounts(written=2, retried=0, dropped=0)
    await store.close()


async def a_point_that_is_written_again_is_stored_once(open_store: Open) -> None:
    store = open_store()
    for _ in range(2):
        await store.write([point(1)])
    other_tags = Point("m", {"n": 2}, {"node": "other"}, point(1).time_ns)

    await store.write([point(1), other_tags, point(2)])
    await store.close()

    assert sorted(str(found.fields["n"]) for found in await stored(open_store)) == ["1", "2", "2"]


async def points_may_be_written_and_saved_at_the_same_time(open_store: Open) -> None:
    store = open_store()

    async with asyncio.TaskGroup() as group:
        for n in range(20):
            group.create_task(store.write([point(n)]))
            store.save(point(100 + n))
    await store.close()

    assert len(await stored(open_store)) == store.counts.written == 40


SUITE = [
    a_point_comes_back_with_its_types,
    points_come_oldest_first_whatever_the_order_of_saving,
    measurements_are_apart,
    closing_writes_everything_and_counts_it,
    points_may_be_saved_from_any_thread,
    a_point_without_fields_is_dropped_and_counted,
    a_point_after_closing_is_dropped_and_counted,
    written_points_are_there_at_once_and_counted,
    a_point_that_is_written_again_is_stored_once,
    points_may_be_written_and_saved_at_the_same_time,
]
