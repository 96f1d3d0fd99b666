"""Predictions by hand (D1, D5), in memory and on NATS."""

import asyncio
import concurrent.futures
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runtime.errors import EncodeError, PredictionError
from runtime.inference import InferenceProcess

# Seconds that an answer may take.
SOON_S = 20.0


def counters(proc: InferenceProcess, sid: str, count: int) -> list[int]:
    predictions = [proc.predict({"input": number}, sid=sid) for number in range(count)]
    return [prediction.result(SOON_S)["counter"] for prediction in predictions]


def test_a_prediction_is_a_future(proc: InferenceProcess, sid: str) -> None:
    prediction = proc.predict({"input": 1}, sid=sid)

    assert prediction.result(SOON_S) == {"output": 2, "counter": 1}
    assert prediction.done() and prediction.exception() is None


async def test_a_prediction_can_be_awaited_on_any_loop(proc: InferenceProcess, sid: str) -> None:
    answers = await asyncio.gather(*(proc.predict({"input": n}, sid=sid) for n in range(3)))

    assert [answer["counter"] for answer in answers] == [1, 2, 3]
    assert (await proc.apredict({"input": 1}, sid=sid))["counter"] == 4


def test_calls_of_one_state_id_see_one_state_in_their_order(proc: InferenceProcess, sid: str) -> None:
    assert counters(proc, sid, 30) == list(range(1, 31))


def test_state_ids_never_mix(proc: InferenceProcess, sid: str) -> None:
    ids = [f"{sid}-{number}" for number in range(4)]

    with ThreadPoolExecutor(len(ids)) as threads:
        found = list(threads.map(lambda one: counters(proc, one, 10), ids))

    assert found == [list(range(1, 11))] * 4


def test_calls_without_a_state_id_share_a_state_apart_from_every_id(proc: InferenceProcess, sid: str) -> None:
    first = proc.predict({"input": 1}).result(SOON_S)
    other = proc.predict({"input": 1}, sid=sid).result(SOON_S)
    second = proc.predict({"input": 1}).result(SOON_S)

    assert (other["counter"], second["counter"] - first["counter"]) == (1, 1)


def test_a_failed_prediction_says_how_and_where(proc: InferenceProcess, sid: str) -> None:
    good, bad = proc.predict({"input": 1}, sid=sid), proc.predict({"fail": True}, sid=f"{sid}-bad")

    with pytest.raises(PredictionError, match="no such number") as caught:
        bad.result(SOON_S)
    assert (caught.value.outcome, caught.value.node) == ("failed", "count")
    assert caught.value.request_id
    assert good.result(SOON_S)["output"] == 2


def test_a_request_that_takes_too_long_ends_alone(proc: InferenceProcess, sid: str) -> None:
    with pytest.raises(PredictionError) as caught:
        proc.predict({"input": 1}, sid=sid, timeout=0.000_001).result(SOON_S)

    assert caught.value.outcome == "timeout"
    assert proc.predict({"input": 1}, sid=f"{sid}-2").result(SOON_S)["output"] == 2


def test_a_cancelled_request_ends_alone(proc: InferenceProcess, sid: str) -> None:
    cancelled, other = proc.predict({"input": 1}, sid=sid), proc.predict({"input": 2}, sid=f"{sid}-2")

    if cancelled.cancel():
        with pytest.raises(concurrent.futures.CancelledError):
            cancelled.result(SOON_S)
    assert other.result(SOON_S)["output"] == 3


def test_what_cannot_be_sent_is_refused_at_once(proc: InferenceProcess) -> None:
    unknown: Any = object()

    with pytest.raises(EncodeError):
        proc.predict(unknown)
