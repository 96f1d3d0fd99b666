"""What every `PointStore` has to show. Each function gets a way to open the same, at first empty, store again."""

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


SUITE = [
    a_point_comes_back_with_its_types,
    points_come_oldest_first_whatever_the_order_of_saving,
    measurements_are_apart,
    closing_writes_everything_and_counts_it,
    points_may_be_saved_from_any_thread,
    a_point_without_fields_is_dropped_and_counted,
    a_point_after_closing_is_dropped_and_counted,
]
