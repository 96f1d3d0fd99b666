"""`FastAPIClient` against a running driver, from plain code and from coroutines; every failure is its own error."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from runtime.drivers import FastAPIClient, FastAPIClientError
from runtime.drivers.fastapi_driver import FastAPIDriver, FastAPIParameters
from runtime.errors import PredictionError
from test.support.http import Web, serving
from test.support.ports import free_port


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with serving() as web:
        yield web


@pytest.fixture
async def client(web: Web) -> AsyncIterator[FastAPIClient]:
    async with FastAPIClient(port=web.port) as client:
        yield client


class Handle:
    """A driver's handle whose services can be changed."""

    def __init__(self, *ports: int) -> None:
        self.ports = list(ports)

    def list_services(self) -> Sequence[Mapping[str, Any]]:
        places = [{"address": "127.0.0.1", "port": port} for port in self.ports]
        return [{"name": "http", "protocol": "http", "taggedAddresses": {"wan": place}} for place in places]


def use(client: FastAPIClient) -> list[Any]:
    """Make every call of plain code once."""
    with client:
        client.wait(timeout=5)
        task_id = client.predict_task({"a": 1}, state_id="cam-1", timeout=5)
        return [
            client.predict({"b": 2}, state_id="cam-1", timeout=5),
            client.predict(b"\x00"),
            client.predict(None),
            list(client.predict_all({"early": 5})),
            client.task_result(task_id),
            client.schema()["workflow"],
        ]


RESULTS: list[Any] = [{"b": 2}, b"\x00", None, [5, {"early": 5}], {"a": 1}, "echo"]


async def test_every_call_works_from_plain_code(web: Web) -> None:
    assert await asyncio.to_thread(use, FastAPIClient(port=web.port)) == RESULTS


async def test_every_call_works_from_a_coroutine(client: FastAPIClient) -> None:
    await client.await_ready(timeout=5)
    task_id = await client.apredict_task({"a": 1}, state_id="cam-1", timeout=5)
    results = [
        await client.apredict({"b": 2}, state_id="cam-1", timeout=5),
        await client.apredict(b"\x00"),
        await client.apredict(None),
        [output async for output in client.apredict_all({"early": 5})],
        await client.atask_result(task_id),
        (await client.aschema())["workflow"],
    ]

    assert results == RESULTS


@pytest.mark.parametrize(
    ("inputs", "timeout", "status", "outcome", "node"),
    [
        ({"error": "no such city"}, 5, 500, "failed", "echo"),
        ({"silent": True}, 0.05, 504, "timeout", ""),
        ({"silent": True}, -1, 400, "invalid", ""),
    ],
)
async def test_an_error_carries_status_outcome_and_node(
    client: FastAPIClient, inputs: Any, timeout: float, status: int, outcome: str, node: str
) -> None:
    with pytest.raises(FastAPIClientError) as caught:
        await client.apredict(inputs, timeout=timeout)

    error = caught.value
    assert (error.status, error.outcome, error.node) == (status, outcome, node)
    assert isinstance(error, PredictionError)
    assert str(error).startswith(f"{status} {outcome}: ")


async def test_events_that_fail_raise_after_the_outputs_before(client: FastAPIClient) -> None:
    outputs = []
    with pytest.raises(FastAPIClientError) as caught:
        async for output in client.apredict_all({"begun": True}, timeout=0.1):
            outputs.append(output)

    assert (outputs, caught.value.outcome) == ([{"begun": True}], "timeout")


async def test_a_busy_driver_says_when_to_come_again() -> None:
    driver = FastAPIDriver(parameters=FastAPIParameters(max_in_flight=1))
    async with serving(lambda: driver) as web, FastAPIClient(port=web.port) as client:
        await client.apredict_task({"silent": True})

        with pytest.raises(FastAPIClientError) as caught:
            await client.apredict(1)

    assert (caught.value.status, caught.value.outcome, caught.value.retry_after_s) == (429, "busy", 2.0)


async def test_a_task_that_does_not_end_in_time_is_a_timeout_and_can_be_asked_again(client: FastAPIClient) -> None:
    task_id = await client.apredict_task({"silent": True}, timeout=0.6)

    with pytest.raises(FastAPIClientError) as early:
        await client.atask_result(task_id, timeout=0.1)
    with pytest.raises(FastAPIClientError) as late:
        await client.atask_result(task_id, timeout=5)

    assert (early.value.status, early.value.outcome) == (202, "timeout")
    assert (late.value.status, late.value.outcome) == (504, "timeout")


async def test_cancelling_tasks(client: FastAPIClient) -> None:
    task_id = await client.apredict_task({"silent": True})
    await client.acancel_task(task_id)
    with pytest.raises(FastAPIClientError) as cancelled:
        await client.atask_result(task_id)
    with pytest.raises(FastAPIClientError) as unknown:
        await client.acancel_task("no/such?task")

    assert (cancelled.value.status, cancelled.value.outcome) == (409, "cancelled")
    assert (unknown.value.status, unknown.value.outcome) == (404, "unknown")


def test_a_refused_connection_is_the_same_error() -> None:
    with FastAPIClient(port=free_port()) as client:
        with pytest.raises(FastAPIClientError) as refused:
            client.predict(1)
        with pytest.raises(FastAPIClientError, match=r"does not answer within 0\.1 s"):
            client.wait(timeout=0.1)

    assert (refused.value.status, refused.value.outcome) == (0, "unavailable")


def test_inputs_that_json_does_not_have_are_refused_before_anything_is_sent() -> None:
    with FastAPIClient(port=free_port()) as client, pytest.raises(FastAPIClientError) as caught:
        client.predict({"a": object()})

    assert caught.value.outcome == "invalid"


def test_a_client_needs_to_know_where() -> None:
    with pytest.raises(ValueError, match="process="):
        FastAPIClient()


async def test_with_a_handle_the_address_is_looked_up_again_after_a_refusal(web: Web) -> None:
    handle = Handle(free_port())
    async with FastAPIClient(process=handle) as client:
        with pytest.raises(FastAPIClientError):
            await client.apredict(1)

        handle.ports = [web.port]

        assert await client.apredict(1) == 1


async def test_a_handle_without_the_service_is_an_error() -> None:
    async with FastAPIClient(process=Handle()) as client:
        with pytest.raises(FastAPIClientError, match="offers no service"):
            await client.apredict(1)
