"""What a driver sees of the workflow: predictions for threads, for the loop of the bus, and for other loops."""

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runtime.bus.base import Bus
from runtime.clock import FakeClock, settle
from runtime.drivers.inference import Inference, Prediction
from runtime.errors import BusClosedError, EncodeError, PredictionError
from test.support.drivers import STREAM, WORKFLOW, echo_workflow


@asynccontextmanager
async def opened(bus: Bus | None = None, clock: FakeClock | None = None) -> AsyncIterator[Inference]:
    clock = clock or FakeClock()
    if bus is None:
        async with echo_workflow(clock) as bus, opened(bus, clock) as inference:
            yield inference
        return
    async with Inference(bus, WORKFLOW, clock) as inference:
        yield inference


async def test_a_thread_waits_for_the_result() -> None:
    async with opened() as inference:
        answer = await asyncio.to_thread(lambda: inference.predict({"n": 1}).result(timeout=5))

        assert answer == {"n": 1}
        assert inference.in_flight == 0


async def test_a_coroutine_on_the_loop_awaits_the_prediction() -> None:
    async with opened() as inference:
        prediction = inference.predict({"n": 1})

        assert inference.in_flight == 1
        assert await prediction == {"n": 1}
        assert prediction.result() == {"n": 1}


async def test_a_coroutine_on_another_loop_awaits_the_prediction() -> None:
    async with opened() as inference:

        async def elsewhere() -> Any:
            return await inference.predict({"n": 1})

        assert await asyncio.to_thread(asyncio.run, elsewhere()) == {"n": 1}


async def test_waiting_on_the_loop_itself_is_refused_instead_of_hanging() -> None:
    async with opened() as inference:
        prediction = inference.predict({"n": 1})

        with pytest.raises(RuntimeError, match="await the future instead"):
            prediction.result()
        with pytest.raises(RuntimeError, match="await the future instead"):
            prediction.exception()
        await prediction


async def test_the_error_of_the_workflow_reaches_the_thread_that_waits() -> None:
    async with opened() as inference:
        with pytest.raises(PredictionError, match="no such camera") as caught:
            await asyncio.to_thread(lambda: inference.predict({"error": "no such camera"}).result(timeout=5))

        assert caught.value.outcome == "failed"


async def test_what_cannot_be_sent_is_refused_at_once_in_a_thread_too() -> None:
    async with opened() as inference:
        with pytest.raises(EncodeError):
            await asyncio.to_thread(inference.predict, object())
        with pytest.raises(ValueError, match="timeout"):
            await asyncio.to_thread(lambda: inference.predict({}, timeout=-1.0))

        assert inference.in_flight == 0


async def test_a_prediction_after_the_end_is_refused() -> None:
    async with opened() as inference:
        pass

    with pytest.raises(BusClosedError):
        inference.predict({})


async def test_the_result_of_a_silent_workflow_is_a_timeout_and_the_request_stays() -> None:
    async with opened() as inference:

        def wait() -> Prediction:
            prediction = inference.predict({"silent": True})
            with pytest.raises(TimeoutError):
                prediction.result(timeout=0.01)
            return prediction

        prediction = await asyncio.to_thread(wait)

        assert not prediction.done() and inference.in_flight == 1
        prediction.cancel()


async def test_cancelling_in_a_thread_forgets_the_request() -> None:
    async with opened() as inference:

        def cancel() -> None:
            prediction = inference.predict({"silent": True})
            assert prediction.cancel() and prediction.done()
            with pytest.raises(concurrent.futures.CancelledError):
                prediction.result()

        await asyncio.to_thread(cancel)
        await settle()

        assert inference.in_flight == 0


async def test_cancelling_whoever_awaits_forgets_the_request() -> None:
    async with opened() as inference:
        prediction = inference.predict({"silent": True})

        async def wait() -> Any:
            return await prediction

        waiting = asyncio.create_task(wait())
        await settle()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        assert prediction.done() and inference.in_flight == 0


async def test_one_cancelled_request_does_not_touch_the_others() -> None:
    async with opened() as inference:
        silent = inference.predict({"silent": True})
        others = [inference.predict({"n": n}) for n in range(3)]
        silent.cancel()

        assert [await other for other in others] == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_a_cancelled_prediction_that_ended_says_so() -> None:
    async with opened() as inference:
        prediction = inference.predict({"n": 1})
        await prediction
        await settle()

        assert not prediction.cancel()
        assert prediction.exception() is None


async def test_every_answer_is_yielded_until_the_last() -> None:
    async with opened() as inference:
        values = [reply.value async for reply in inference.predict_all({"early": "soon"})]

        assert values == ["soon", {"early": "soon"}]
        assert inference.in_flight == 0


async def test_requests_of_one_thread_keep_their_order() -> None:
    async with echo_workflow() as bus, opened(bus) as inference:

        def send() -> list[Any]:
            predictions = [inference.predict({"n": n}, sid="cam-1") for n in range(50)]
            return [prediction.result(timeout=5) for prediction in predictions]

        answers = await asyncio.to_thread(send)

        stored = [await bus.get_message(STREAM, sequence) for sequence in range(1, 51)]
        assert answers == [{"n": n} for n in range(50)]
        assert [b'"n":%d}' % n in message.data for n, message in enumerate(stored)] == [True] * 50


async def test_a_driver_sees_names_and_nothing_that_manages() -> None:
    async with opened() as inference:
        public = {name for name in dir(inference) if not name.startswith("_")}

        assert (inference.workflow, inference.stream) == ("echo", STREAM)
        assert public == {
            "bus", "clock", "driver", "held", "in_flight", "output_subjects", "predict", "predict_all", "schema",
            "stopping", "stream", "workflow",
        }  # fmt: skip
