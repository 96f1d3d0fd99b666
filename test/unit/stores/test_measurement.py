"""From the arguments of `ctx.measurement.save` to a point."""

import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from runtime.stores.base import Point
from runtime.stores.measurement import PRECISION_MS, PRECISION_NS, PRECISION_S, PRECISION_US, build_point

NOW_NS = 1_795_255_200_123_456_789
RUNTIME_TAGS = {"version": "v1", "workflow": "greeter", "node": "score"}


def build(
    measurement: Any = "m", fields: Any = None, tags: Any = None, time: Any = None, precision: Any = PRECISION_NS
) -> Point:
    given = {"n": 1} if fields is None else fields
    return build_point(measurement, given, tags, time, precision, runtime_tags=RUNTIME_TAGS, now_ns=NOW_NS)


def test_a_point_has_its_fields_its_tags_and_now() -> None:
    point = build("m", {"n": 1, "f": 1.0, "yes": True, "text": "x"}, {"kind": "a"})

    assert repr(point.fields) == "{'n': 1, 'f': 1.0, 'yes': True, 'text': 'x'}"
    assert (point.measurement, point.tags, point.time_ns) == ("m", {"kind": "a", **RUNTIME_TAGS}, NOW_NS)


def test_the_runtimes_tags_win() -> None:
    assert build(tags={"version": "mine", "node": "other"}).tags == RUNTIME_TAGS


def test_empty_tags_are_left_out_and_numbers_become_text() -> None:
    point = build_point(
        "m", {"n": 1}, {"empty": "", "none": None, "number": 5}, None, PRECISION_NS, runtime_tags={"node": ""}, now_ns=0
    )  # fmt: skip

    assert point.tags == {"number": "5"}


def test_fields_that_no_store_holds_are_left_out() -> None:
    point = build(fields={"n": 1, "nan": float("nan"), "inf": float("-inf"), "none": None})

    assert point.fields == {"n": 1}
    assert build(fields={"nan": float("nan")}).fields == {}
    assert build(fields={}).fields == {}


def test_numbers_of_numpy_are_numbers() -> None:
    point = build(fields={"f": np.float32(0.5), "d": np.float64(0.1), "n": np.int64(7)})

    assert repr(point.fields) == "{'f': 0.5, 'd': 0.1, 'n': 7}"


def test_what_the_caller_changes_later_does_not_change_the_point() -> None:
    fields, tags = {"n": 1}, {"kind": "a"}

    point = build(fields=fields, tags=tags)
    fields["n"] = 2
    tags["kind"] = "b"

    assert (point.fields["n"], point.tags["kind"]) == (1, "a")


@pytest.mark.parametrize(
    ("precision", "expected_ns"),
    [
        (PRECISION_S, 1_795_255_200_000_000_000),
        (PRECISION_MS, 1_795_255_200_123_000_000),
        (PRECISION_US, 1_795_255_200_123_456_000),
        (PRECISION_NS, 1_795_255_200_123_456_789),
    ],
)
def test_the_time_is_cut_to_the_precision(precision: str, expected_ns: int) -> None:
    assert build(precision=precision).time_ns == expected_ns


@pytest.mark.parametrize(
    ("given", "expected_ns"),
    [
        (datetime(2026, 11, 21, 10, 0, 0, 123457, tzinfo=UTC), 1_795_255_200_123_457_000),
        (datetime(2026, 11, 21, 10, 0, 0, 123457), 1_795_255_200_123_457_000),
        (datetime(2026, 11, 21, 12, 0, tzinfo=timezone(timedelta(hours=2))), 1_795_255_200_000_000_000),
        (datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), -1_000),
        (0, 0),
    ],
    ids=str,
)
def test_a_time_is_exact_and_naive_means_utc(given: Any, expected_ns: int) -> None:
    assert build(time=given).time_ns == expected_ns


def test_an_integer_time_counts_in_the_precision() -> None:
    assert build(time=1_795_255_200, precision=PRECISION_S).time_ns == 1_795_255_200_000_000_000


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"measurement": ""}, TypeError, "[ctx.measurement.save] invalid 'measurement'='', must be a nonempty string"),
        ({"measurement": 5}, TypeError, "[ctx.measurement.save] invalid 'measurement'=5, must be a nonempty string"),
        ({"fields": [1]}, TypeError, "[ctx.measurement.save] invalid 'fields'='list', must be a dict"),
        ({"fields": {1: 2}}, TypeError, "[ctx.measurement.save] invalid key 1 in 'fields', must be a string"),
        (
            {"fields": {"a": [1]}},
            TypeError,
            "[ctx.measurement.save] invalid field 'a' of type 'list', must be a number, a boolean or a string",
        ),
        (
            {"fields": {"a": 2**63}},
            TypeError,
            f"[ctx.measurement.save] invalid field 'a'={2**63}, must fit into 64 bits",
        ),
        ({"tags": "x"}, TypeError, "[ctx.measurement.save] invalid 'tags'='str', must be a dict"),
        ({"tags": {1: "a"}}, TypeError, "[ctx.measurement.save] invalid key 1 in 'tags', must be a string"),
        ({"tags": {"a": []}}, TypeError, "[ctx.measurement.save] invalid tag 'a' of type 'list', must be a string"),
        ({"time": "now"}, TypeError, "[ctx.measurement.save] invalid 'time' of type 'str', must be a datetime"),
        ({"time": True}, TypeError, "[ctx.measurement.save] invalid 'time' of type 'bool', must be a datetime"),
        (
            {"precision": "h"},
            ValueError,
            "[ctx.measurement.save] invalid 'precision'='h', must be one of s, ms, us, ns",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as refusal:
        build(**arguments)

    assert str(refusal.value) == message


def test_building_a_point_takes_less_than_50_microseconds() -> None:
    fields = {f"field{n}": n * 0.5 for n in range(5)}
    tags = {"kind": "a", "place": "b"}
    when = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
    durations = []
    for _ in range(500):
        start = time.perf_counter()
        build(fields=fields, tags=tags, time=when)
        durations.append(time.perf_counter() - start)

    # The median: a single call may wait for the machine.
    assert sorted(durations)[len(durations) // 2] < 50e-6
