"""Requests and answers that are larger than NATS takes: they end with an error that says so, and nothing is lost."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from runtime.deadletter import HEADER, DeadLetter
from runtime.drivers.fastapi_client import FastAPIClient, FastAPIClientError
from runtime.drivers.inference import WorkflowView
from runtime.payload import decode_value
from runtime.wire import decode
from test.integration.conftest import OpenWorkbench
from test.support.children import Workbench
from test.support.http import Web, serving
from test.support.node import DEAD_LETTERS, NODE, OUTPUT, STREAM, node_spec

VIEW = WorkflowView(name="greeter", stream=STREAM, output_subjects=(OUTPUT,))
# Answers with as many bytes as it is asked for, which cannot be packed.
NOISE = """
    import os

    async def handler(ctx, data: dict):
        return os.urandom(data["bytes"])
"""
TOO_MANY = 2_000_000


@pytest.fixture
async def bench(open_workbench: OpenWorkbench) -> Workbench:
    bench = await open_workbench(NOISE)
    await bench.start_child(node_spec(exit_channel="main"))
    return bench


@pytest.fixture
async def web(bench: Workbench) -> AsyncIterator[Web]:
    async with serving(bus=bench.bus, view=VIEW) as web:
        yield web


async def test_a_request_that_is_too_large_is_refused_and_nothing_is_sent(bench: Workbench, web: Web) -> None:
    noise = random.Random(1).randbytes(TOO_MANY).hex()

    answer = await web.http.post("/predict", json={"noise": noise})

    assert (answer.status_code, answer.json()["outcome"]) == (413, "too-large")
    assert (await bench.bus.stream_state(STREAM)).messages == 0


async def test_an_answer_that_is_too_large_fails_its_own_request_and_is_kept_as_a_dead_letter(
    bench: Workbench, web: Web
) -> None:
    sizes = [TOO_MANY if number == 7 else number for number in range(20)]

    answers = await asyncio.gather(*(web.http.post("/predict", json={"bytes": size}) for size in sizes))

    assert [answer.status_code for answer in answers] == [413 if size == TOO_MANY else 200 for size in sizes]
    assert [len(answer.content) for answer in answers if answer.is_success] == [s for s in sizes if s != TOO_MANY]
    told = answers[7].json()
    assert (told["outcome"], told["node"], "exceeds maximum size" in told["detail"]) == ("too-large", NODE, True)
    assert await bench.dead_letters() == 1
    stored = await bench.bus.get_message(DEAD_LETTERS, 1)
    letter = DeadLetter.from_header(stored.headers[HEADER])
    assert (letter.reason, letter.request_id) == ("too-large", told["request_id"])
    assert decode_value(decode(stored.data).payload) == {"bytes": TOO_MANY}


async def test_a_task_whose_result_is_too_large_has_failed_for_that_reason(web: Web) -> None:
    async with FastAPIClient(port=web.port) as client:
        task_id = await client.apredict_task({"bytes": TOO_MANY})

        with pytest.raises(FastAPIClientError) as caught:
            await client.atask_result(task_id)

    assert (caught.value.status, caught.value.outcome, caught.value.node) == (413, "too-large", NODE)
