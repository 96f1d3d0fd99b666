"""Tasks of HTTP drivers: kept beyond the request, beyond their driver, and not beyond their time."""

import asyncio
import time
from typing import Any

import pytest

from runtime import payload, wire
from runtime.bus.base import Bus, Confirmation
from runtime.clock import settle
from runtime.drivers.fastapi_driver import FastAPIDriver, FastAPIParameters
from runtime.drivers.http.task_record import TaskRecord
from runtime.message import Message, MessageType
from runtime.spec import names
from test.support.answering_node import NODE
from test.support.drivers import STREAM, echo_workflow
from test.support.http import Web, serving
from test.support.waiting import until


async def keep(bus: Bus, task_id: str, *, inputs: Any = None, timeout_s: float = 30.0) -> None:
    """Write down a task that a driver took before it was killed."""
    now_ms = time.time_ns() // 1_000_000
    record = TaskRecord(
        id=task_id,
        created_ms=now_ms,
        deadline_ms=now_ms + round(timeout_s * 1000),
        payload=payload.encode_value(inputs),
    )
    bucket = await bus.key_value(names.tasks_bucket(STREAM), create=True)
    await bucket.create(task_id, record.encode(bus.max_payload_bytes))


async def store(bus: Bus, subject: str, message: Message) -> None:
    """Put a message of the workflow into its stream."""
    publisher = bus.publisher(STREAM)
    stored = Confirmation()
    await publisher.publish(subject, wire.encode(message), message_id=f"{subject}.{message.request_id}", confirm=stored)
    await stored
    await publisher.close()


async def result(web: Web, task_id: str, wait: str = "5s") -> tuple[int, Any]:
    answer = await web.http.get(f"/tasks/{task_id}", params={"wait": wait})
    return answer.status_code, answer.json()


async def test_a_task_gives_its_result_later() -> None:
    async with serving() as web:
        taken = await web.http.post("/tasks", json={"a": 1})
        status, value = await result(web, taken.json()["task_id"])

    assert (taken.status_code, taken.json()["state"]) == (202, "pending")
    assert taken.headers["Location"] == f"/tasks/{taken.json()['task_id']}"
    assert (status, value) == (200, {"a": 1})


async def test_a_task_without_an_answer_is_pending_until_it_times_out() -> None:
    async with serving() as web:
        task_id = await web.task({"silent": True}, timeout=0.5)
        before = await result(web, task_id, wait="0")
        after = await result(web, task_id)

    assert (before[0], before[1]["state"]) == (202, "pending")
    assert (after[0], after[1]["outcome"]) == (504, "timeout")


async def test_a_failed_task_has_the_status_of_its_outcome() -> None:
    async with serving() as web:
        status, said = await result(web, await web.task({"error": "no such city"}))

    assert (status, said["outcome"], said["detail"], said["node"]) == (500, "failed", "no such city", NODE)


async def test_an_unknown_task_and_no_task_id_at_all_are_not_found() -> None:
    async with serving() as web:
        answers = [await result(web, "0" * 32), await result(web, "x.y")]
        deleted = await web.http.delete("/tasks/" + "0" * 32)

    assert [(status, said["outcome"]) for status, said in answers] == [(404, "unknown")] * 2
    assert deleted.status_code == 404


async def test_a_result_expires_when_its_time_is_over() -> None:
    async with serving(lambda: FastAPIDriver(parameters=FastAPIParameters(task_ttl=0.2))) as web:
        task_id = await web.task(1)
        there = await result(web, task_id)

        async with asyncio.timeout(5):
            while (await result(web, task_id, wait="0"))[0] != 404:  # noqa: ASYNC110 - nothing tells of an expiry
                await asyncio.sleep(0.02)

    assert there == (200, 1)


async def test_a_changed_ttl_holds_for_tasks_that_end_afterwards() -> None:
    async with serving(lambda: FastAPIDriver(parameters=FastAPIParameters(task_ttl=0.01))) as web:
        web.runner.set_parameters({"task_ttl": "60s"})

        assert await result(web, await web.task(1)) == (200, 1)


async def test_a_cancelled_task_stays_cancelled() -> None:
    async with serving() as web:
        task_id = await web.task({"silent": True}, timeout=30)
        cancelled = await web.http.delete(f"/tasks/{task_id}")
        status, said = await result(web, task_id)
        again = await web.http.delete(f"/tasks/{task_id}")

    assert (cancelled.status_code, status, said["outcome"]) == (204, 409, "cancelled")
    assert again.status_code == 204


async def test_a_driver_that_ends_does_not_cancel_its_tasks_for_another_finishes_them() -> None:
    told: list[bytes] = []
    async with echo_workflow() as bus:
        await bus.subscribe(names.cancel_subject(STREAM), lambda message: told.append(message.data))
        async with serving(bus=bus) as web:
            await web.task({"silent": True}, timeout=30)
            await until(lambda: web.driver.in_flight == 1)
        await settle()

    assert told == []


async def test_a_task_that_has_ended_cannot_be_cancelled() -> None:
    async with serving() as web:
        task_id = await web.task(1)
        await result(web, task_id)
        answer = await web.http.delete(f"/tasks/{task_id}")

    assert (answer.status_code, answer.json()["outcome"]) == (409, "cancelled")


async def test_a_task_fills_its_place_until_it_has_ended() -> None:
    async with serving(lambda: FastAPIDriver(parameters=FastAPIParameters(max_in_flight=1))) as web:
        task_id = await web.task({"silent": True}, timeout=30)
        refused = await web.http.post("/predict", json=1)
        await web.http.delete(f"/tasks/{task_id}")
        await until(lambda: web.driver.in_flight == 0)
        taken = await web.http.post("/predict", json=1)

    assert (refused.status_code, taken.status_code) == (429, 200)


async def test_any_driver_of_the_workflow_knows_a_task() -> None:
    async with echo_workflow() as bus, serving(bus=bus) as first, serving(bus=bus) as second:
        task_id = await first.task({"a": 1})
        ended = await result(second, task_id)
        silent = await first.task({"silent": True}, timeout=30)
        cancelled = await second.http.delete(f"/tasks/{silent}")
        seen = await result(first, silent)

    assert ended == (200, {"a": 1})
    assert (cancelled.status_code, seen[0]) == (204, 409)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Message(payload=payload.encode_value({"a": 1}), from_node=NODE), 200),
        (Message(type=MessageType.ERROR, error="no such city", from_node=NODE, outcome="failed"), 500),
    ],
)
async def test_an_answer_that_came_while_no_driver_was_there_is_found(answer: Message, status: int) -> None:
    task_id = "a" * 32
    async with echo_workflow() as bus:
        await keep(bus, task_id)
        request = Message(request_id=task_id, payload=payload.encode_value({"silent": True}), reply_to="gone")
        await store(bus, names.entrypoint_subject(STREAM), request)
        await store(bus, names.node_subject(STREAM, NODE), answer._replace(request_id=task_id))

        async with serving(bus=bus) as web:
            found = await result(web, task_id)

    assert found[0] == status


async def test_an_answer_that_comes_later_is_found_by_a_driver_that_did_not_ask() -> None:
    task_id = "b" * 32
    async with echo_workflow() as bus, serving(bus=bus) as web:
        await keep(bus, task_id)
        request = Message(request_id=task_id, payload=payload.encode_value({"silent": True}), reply_to="gone")
        await store(bus, names.entrypoint_subject(STREAM), request)
        waiting = asyncio.create_task(result(web, task_id))
        answer = Message(request_id=task_id, payload=payload.encode_value(7), from_node=NODE)
        await store(bus, names.node_subject(STREAM, NODE), answer)

        assert await waiting == (200, 7)


async def test_a_task_whose_request_never_got_into_the_stream_is_sent_again() -> None:
    task_id = "c" * 32
    async with echo_workflow() as bus:
        await keep(bus, task_id, inputs={"city": "Ghent"})

        async with serving(bus=bus) as web:
            async with asyncio.timeout(5):
                while (await bus.stream_state(STREAM)).messages == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            stored = wire.decode((await bus.get_message(STREAM, 1)).data)
            # The echo answers its caller directly; a real node also stores what it answers.
            await store(bus, names.node_subject(STREAM, NODE), stored._replace(from_node=NODE))
            found = await result(web, task_id)

    assert (stored.request_id, payload.decode_value(stored.payload)) == (task_id, {"city": "Ghent"})
    assert found == (200, {"city": "Ghent"})


async def test_a_lost_task_ends_at_its_deadline() -> None:
    task_id = "d" * 32
    async with echo_workflow() as bus:
        await keep(bus, task_id, inputs={"silent": True}, timeout_s=0.2)

        async with serving(bus=bus) as web:
            found = await result(web, task_id)

    assert (found[0], found[1]["outcome"]) == (504, "timeout")


async def test_stopping_a_driver_leaves_its_tasks_to_the_next_one() -> None:
    async with echo_workflow() as bus:
        async with serving(bus=bus) as web:
            task_id = await web.task({"silent": True}, timeout=30)
            waiting = asyncio.create_task(result(web, task_id, wait="30s"))
            await until(lambda: web.driver.in_flight == 1)
            await asyncio.sleep(0)
            await web.runner.stop()
            # A client that waits is told at once that the task is pending.
            assert (await waiting)[0] == 202

        async with serving(bus=bus) as web:
            await store(
                bus,
                names.node_subject(STREAM, NODE),
                Message(request_id=task_id, payload=payload.encode_value("later"), from_node=NODE),
            )
            found = await result(web, task_id)

    assert found == (200, "later")


async def test_a_result_larger_than_an_entry_is_kept_packed() -> None:
    async with serving() as web:
        text = "x" * 2_000_000
        status, value = await result(web, await web.task(text))

    assert (status, len(value)) == (200, 2_000_000)
