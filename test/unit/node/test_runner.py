"""One message from take to settle: what is published, when it is acked, and how often."""

import pytest

from runtime.bus.base import Delivery, Reader
from test.support.node import node_spec
from test.unit.node.conftest import StartNode

ECHO = """
    async def handler(ctx, data: dict):
        return data
"""


async def test_an_output_carries_the_ids_of_its_input(start_node: StartNode) -> None:
    node = await start_node(ECHO)

    await node.send({"a": 1}, request_id="r7", state_id="s", traceparent="00-1", headers={"k": "v"}, deadline_ms=5)
    await node.settled()

    (output,) = node.messages()
    assert (output.request_id, output.state_id, output.traceparent) == ("r7", "s", "00-1")
    assert (dict(output.headers), output.deadline_ms, output.from_node) == ({"k": "v"}, 5, "work")
    assert node.outputs() == [{"a": 1}]


async def test_an_output_has_the_id_of_node_input_and_number(start_node: StartNode) -> None:
    node = await start_node("async def handler(ctx, data): return ['a', 'b']")

    sequence = await node.send()
    await node.settled()

    ids = [stored.headers["Nats-Msg-Id"] for stored in node.stored()]
    assert ids == [f"work.{sequence}.0", f"work.{sequence}.1"]


async def test_a_message_without_a_request_id_gets_one_from_its_place(start_node: StartNode) -> None:
    node = await start_node(ECHO)

    sequence = await node.send({}, request_id="")
    await node.settled()

    assert node.messages()[0].request_id == f"prod_v1_greeter-{sequence}"


async def test_a_delivery_is_acked_only_after_every_puback(start_node: StartNode) -> None:
    node = await start_node("async def handler(ctx, data): return [1, 2, 3]")
    node.broker.fail_publishes(2)
    node.broker.fail_publishes(0)

    await node.send()
    node.broker.fail_publishes(5)
    await node.until(lambda: node.broker._refused_publishes == 4)

    assert node.in_hand == 1
    assert node.state.ack_pending == 1
    await node.clock.advance(30)
    await node.settled()
    assert node.outputs() == [1, 2, 3]


async def test_every_delivery_is_settled_exactly_once(start_node: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node = await start_node(
        """
        from runtime.errors import Drop, Reject

        async def handler(ctx, data: int):
            if data % 5 == 1:
                raise ValueError(data)
            if data % 5 == 2:
                raise Reject("no")
            if data % 5 == 3:
                raise Drop("no")
            if data % 5 == 4:
                return float("nan")
            return data
        """
    )
    settled: list[tuple[str, int]] = []
    watch_settling(node.process._readers[0], settled, monkeypatch)

    for number in range(50):
        await node.send(number)
    await node.released()

    assert len(settled) == 50
    assert len(set(settled)) == 50
    kinds = [kind for kind, _ in settled]
    assert (kinds.count("ack"), kinds.count("nak"), kinds.count("term")) == (20, 10, 20)


def watch_settling(reader: Reader, settled: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    ack, nak, term = reader.ack, reader.nak, reader.term

    def on_ack(delivery: Delivery) -> None:
        settled.append(("ack", delivery.sequence))
        ack(delivery)

    def on_nak(delivery: Delivery, delay_s: float) -> None:
        settled.append(("nak", delivery.sequence))
        nak(delivery, delay_s)

    def on_term(delivery: Delivery) -> None:
        settled.append(("term", delivery.sequence))
        term(delivery)

    monkeypatch.setattr(reader, "ack", on_ack)
    monkeypatch.setattr(reader, "nak", on_nak)
    monkeypatch.setattr(reader, "term", on_term)


async def test_a_message_that_comes_again_is_not_started_twice(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio
        calls, go = [], asyncio.Event()

        async def handler(ctx, data):
            calls.append(ctx.attempt)
            await go.wait()
            return "done"
        """,
        spec=node_spec(timeout_s=None),
    )
    sequence = await node.send()
    await node.until(lambda: node.module.calls == [1])

    node.broker.redeliver("prod_v1_greeter", "work__entrypoint", sequence)
    await node.clock.advance(1)
    node.module.go.set()
    await node.settled()

    assert node.module.calls == [1]
    assert node.outputs() == ["done"]


@pytest.mark.parametrize(
    ("source", "concurrency", "expected"),
    [
        ("async def handler(ctx, data):", None, 16),
        ("async def handler(ctx, data):", 3, 3),
    ],
)
async def test_no_more_messages_are_handled_at_once_than_allowed(
    start_node: StartNode, source: str, concurrency: int | None, expected: int
) -> None:
    body = """
    global running, most
    running += 1
    most = max(most, running)
    await go.wait()
    running -= 1
"""
    node = await start_node(
        f"import asyncio\nrunning = most = 0\ngo = asyncio.Event()\n{source}{body}",
        spec=node_spec(concurrency=concurrency),
    )

    for _ in range(40):
        await node.send()
    await node.until(lambda: node.module.running == expected)
    node.module.go.set()
    await node.settled()

    assert node.module.most == expected


async def test_a_plain_handler_works_on_one_message_at_a_time(start_node: StartNode) -> None:
    node = await start_node(
        """
        import threading
        lock, threads = threading.Lock(), set()

        def handler(ctx, data):
            assert lock.acquire(blocking=False), "two at once"
            threads.add(threading.get_ident())
            lock.release()
        """
    )

    for _ in range(20):
        await node.send()
    await node.settled()

    assert len(node.module.threads) == 1
    assert node.dead_letters() == []


async def test_a_slot_that_handles_gives_the_others_a_turn(start_node: StartNode) -> None:
    """A handler that never waits must not keep acks and publishes from leaving."""
    node = await start_node(ECHO, spec=node_spec(concurrency=1))

    for number in range(200):
        await node.send({"n": number})
    await node.settled()

    assert [value["n"] for value in node.outputs()] == list(range(200))


async def test_the_outputs_of_a_redriven_message_get_new_ids_and_are_no_redrives_themselves(
    start_node: StartNode,
) -> None:
    node = await start_node(ECHO)
    await node.send({"n": 1})
    await node.settled()
    original = node.stored("prod_v1_greeter.entrypoint")[0]

    headers = {"Krt-Origin": "1", "Krt-Redrive": "2"}
    await node.send_bytes(original.data, headers)
    await node.settled()

    again = node.stored()[1]
    assert again.headers["Nats-Msg-Id"] == "work.1.0#r2"
    # The node behind makes its ids from its own input: with these headers, two outputs would lead to the same ids.
    assert again.headers.keys() == {"Nats-Msg-Id"}


async def test_redrive_headers_that_are_no_numbers_are_a_dead_letter(start_node: StartNode) -> None:
    node = await start_node(ECHO)

    await node.send_bytes(b"", {"Krt-Origin": "x", "Krt-Redrive": "1"})
    await node.settled()

    assert node.the_dead_letter().reason == "headers"


async def test_a_handler_that_raises_cancelled_error_fails_like_any_other(start_node: StartNode) -> None:
    """Awaiting a task that was cancelled raises CancelledError, which must not end the slot."""
    node = await start_node(
        """
        import asyncio

        async def handler(ctx, data: int):
            if data == 0:
                task = asyncio.create_task(asyncio.sleep(60))
                task.cancel()
                await task
            return data
        """,
        spec=node_spec(concurrency=1),
    )

    await node.send(0)
    await node.send(1)
    await node.until(lambda: node.outputs() == [1])
    await node.clock.advance(10)
    await node.settled()

    assert node.the_dead_letter().reason == "failed"
    assert "CancelledError" in node.the_dead_letter().error


async def test_a_plain_handler_that_calls_exit_does_not_end_the_process(start_node: StartNode) -> None:
    node = await start_node(
        """
        import sys

        def handler(ctx, data: int):
            if data == 0:
                sys.exit(3)
            return data
        """
    )

    await node.send(0)
    await node.send(1)
    await node.until(lambda: node.outputs() == [1])
    await node.clock.advance(10)
    await node.settled()

    assert node.the_dead_letter().error == "SystemExit: 3"


async def test_outputs_after_the_end_of_a_delivery_are_refused(start_node: StartNode) -> None:
    """What outlives its delivery (a task, an abandoned thread) would publish what nobody confirms or settles."""
    node = await start_node(
        """
        import asyncio
        late, go, tasks = [], asyncio.Event(), []

        async def handler(ctx, data):
            async def send_later():
                await go.wait()
                try:
                    await ctx.send_output("late")
                except Exception as error:
                    late.append(f"{type(error).__name__}: {error}")
            tasks.append(asyncio.create_task(send_later()))
            return "in time"
        """
    )
    await node.send()
    await node.settled()

    node.module.go.set()
    await node.until(lambda: len(node.module.late) == 1)

    assert node.module.late == ["ContextError: ctx.send_output is only available while a message is handled"]
    assert node.outputs() == ["in time"]


async def test_a_bare_runner_handles_one_message_at_a_time_over_all_inputs(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio
        running = most = 0

        async def handler(ctx, data):
            global running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return data
        """,
        bare=True,
        variables={"NATS_INPUTS": "prod_v1_greeter.entrypoint, prod_v1_greeter.other"},
    )

    for subject in ("prod_v1_greeter.entrypoint", "prod_v1_greeter.other") * 10:
        await node.send_bytes(b"", subject=subject)
    await node.until(lambda: len(node.stored()) == 20)

    assert node.module.most == 1


async def test_bytes_that_are_no_envelope_are_a_dead_letter_and_never_a_retry(start_node: StartNode) -> None:
    node = await start_node(ECHO)

    await node.send_bytes(b"\xff\xff not an envelope")
    await node.settled()

    ((stored, letter),) = node.dead_letters()
    assert stored.data == b"\xff\xff not an envelope"
    assert (letter.reason, letter.attempts) == ("protobuf", ())
    assert node.messages() == []


async def test_a_payload_of_the_wrong_type_is_a_dead_letter_with_both_names(start_node: StartNode) -> None:
    node = await start_node(ECHO)

    await node.call(b"raw bytes", request_id="r3")
    await node.settled()

    letter = node.the_dead_letter()
    assert letter.reason == "payload-type"
    assert letter.error == "DecodeError: the handler takes krt.Json, the payload is google.protobuf.BytesValue"
    (error,) = node.errors()
    assert (error.request_id, error.outcome) == ("r3", "invalid")


async def test_a_node_with_handlers_by_source_gives_up_what_no_handler_takes(start_node: StartNode) -> None:
    node = await start_node(
        """
        async def from_a(ctx, data):
            await ctx.send_output("a")
            return "ignored"

        custom_handlers = {"a": from_a}
        """
    )

    await node.send(from_node="a")
    await node.send(from_node="b")
    await node.settled()

    assert node.outputs() == ["a"]
    assert node.the_dead_letter().error == "DecodeError: no handler for messages from node 'b'"
    assert node.the_dead_letter().reason == "no-handler"
