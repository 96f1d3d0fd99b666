"""What becomes of a message whose handler fails: retries, dead letters, and the ERROR that reaches the caller."""

import os
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from runtime import wire
from runtime.bus.base import GIVE_UP_S
from runtime.message import Message, MessageType
from runtime.payload import encode_value
from runtime.spec.node import RetryPolicy
from test.support.node import OUTPUT, STREAM, node_spec
from test.unit.node.conftest import StartNode

FAILS = """
    calls = []

    async def handler(ctx, data):
        calls.append(ctx.attempt)
        deeper()

    def deeper():
        raise ValueError("this is wrong")
"""
FORWARDS = """
    calls = []

    async def handler(ctx, data):
        calls.append(data)
        return data
"""


def error_message(**fields: Any) -> Message:
    return Message(
        **{"request_id": "r1", "type": MessageType.ERROR, "error": "broken", "from_node": "before", **fields}
    )


async def test_the_delay_between_attempts_grows(start_node: StartNode) -> None:
    node = await start_node(FAILS)
    await node.send()
    await node.released()
    assert node.module.calls == [1]

    await node.clock.advance(0.9)
    assert node.module.calls == [1]
    await node.clock.advance(0.2)
    assert node.module.calls == [1, 2]
    await node.clock.advance(1.8)
    assert node.module.calls == [1, 2]
    await node.clock.advance(0.3)

    assert node.module.calls == [1, 2, 3]
    await node.settled()


async def test_a_dead_letter_holds_the_input_and_the_history(start_node: StartNode) -> None:
    node = await start_node(FAILS, spec=node_spec(handler_version="abc123"))
    await node.send("before it")
    await node.clock.advance(10)

    sequence = await node.send({"a": 1}, request_id="r9")
    await node.clock.advance(10)
    await node.settled()

    stored, letter = node.dead_letters()[1]
    assert stored.data == node.stored(f"{STREAM}.entrypoint")[1].data
    assert (letter.node, letter.reason, letter.error) == ("work", "failed", "ValueError: this is wrong")
    assert (letter.request_id, letter.stream, letter.subject) == ("r9", STREAM, f"{STREAM}.entrypoint")
    assert (letter.sequence, letter.handler_version) == (sequence, "abc123")
    assert letter.headers == {"Nats-Msg-Id": f"in.{sequence - 1}"}
    assert letter.stored_ns == node.stored(f"{STREAM}.entrypoint")[1].time_ns
    assert [(each.attempt, each.error) for each in letter.attempts] == [
        (1, "ValueError: this is wrong"), (2, "ValueError: this is wrong"), (3, "ValueError: this is wrong"),
    ]  # fmt: skip
    times = [each.time_s for each in letter.attempts]
    assert [round(later - earlier, 1) for earlier, later in pairwise(times)] == [1.0, 2.0]


@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_a_traceback_begins_in_the_users_file(start_node: StartNode, kind: str) -> None:
    node = await start_node(FAILS.replace("async def", kind), spec=node_spec(retry=RetryPolicy(attempts=1)))

    await node.send()
    await node.settled()

    lines = node.the_dead_letter().traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith('handler.py", line 6, in handler')
    assert lines[-1] == "ValueError: this is wrong"
    assert "runtime/" not in "".join(lines)


async def test_deliveries_of_dead_processes_do_not_use_up_the_attempts(start_node: StartNode) -> None:
    """Three processes die with the message in hand; the fourth still has all three attempts."""
    node = await start_node(FAILS)
    consumer = node.broker.streams.stream(STREAM).consumers["work__entrypoint"]
    await node.process._readers[0].drain()
    await node.send()
    for attempt in (1, 2, 3):
        consumer._dispatch()
        reader = node.outside.reader(consumer.config, create=False)
        await reader.start()
        assert (await reader.take()).attempt == attempt
        reader.disconnect(ConnectionError("killed"))  # type: ignore[arg-type]  # any reason will do
        await node.clock.advance(31)

    survivor = await start_node(FAILS, broker=node.broker)
    await survivor.clock.advance(60)
    await survivor.settled()

    assert survivor.module.calls == [4, 5, 6]
    assert [each.attempt for each in survivor.the_dead_letter().attempts] == [4, 5, 6]


async def test_attempts_are_counted_over_replicas(start_node: StartNode) -> None:
    first = await start_node(FAILS, spec=node_spec(concurrency=1))
    second = await start_node(FAILS, spec=node_spec(concurrency=1), broker=first.broker)

    await first.send()
    await first.clock.advance(60)
    await second.settled()

    assert [each.attempt for each in first.the_dead_letter().attempts] == [1, 2, 3]


async def test_the_record_of_attempts_goes_with_the_message(start_node: StartNode) -> None:
    node = await start_node(
        """
        async def handler(ctx, data):
            if ctx.attempt < 3:
                raise ValueError("not yet")
            return "done"
        """
    )
    await node.send()
    await node.clock.advance(10)
    await node.settled()

    bucket = await node.outside.key_value(f"attempts_{STREAM}")
    assert await bucket.keys() == []
    assert node.outputs() == ["done"]


async def test_a_policy_without_an_end_keeps_its_record_small(start_node: StartNode) -> None:
    spec = node_spec(retry=RetryPolicy(attempts=1_000_000, first_s=0.01, max_s=0.01, jitter=0))
    node = await start_node("async def handler(ctx, data):\n raise ValueError('x' * 100_000)", spec=spec)
    await node.send()
    await node.released()

    while node.state.redelivered == 0 or node.process._runner._metrics.counts.retried < 60:  # type: ignore[union-attr]
        await node.clock.advance(0.05)

    bucket = await node.outside.key_value(f"attempts_{STREAM}")
    entry = await bucket.get("work/1")
    assert len(entry.value) < 40_000
    assert node.dead_letters() == []


async def test_an_error_goes_to_where_it_reaches_the_caller(start_node: StartNode) -> None:
    spec = node_spec(error_subject=f"{STREAM}.work.errors", retry=RetryPolicy(attempts=1))
    node = await start_node(FAILS, spec=spec)

    await node.call({"a": 1}, from_node="before", headers={"k": "v"})
    await node.settled()

    (error,) = node.messages(f"{STREAM}.work.errors")
    assert error.error == "Error in node 'work' executing handler for node 'before': ValueError: this is wrong"
    assert (error.type, error.request_id, error.from_node) == (MessageType.ERROR, "r1", "work")
    assert (error.payload, error.outcome, error.reply_to) == (b"", "failed", "caller")
    assert node.replies == []


async def test_an_error_passes_on_unchanged(start_node: StartNode) -> None:
    node = await start_node(FORWARDS, spec=node_spec(error_subject=f"{STREAM}.work.errors"))
    data = wire.encode(error_message(reply_to="caller", headers={"a": "b"}))

    await node.send_bytes(data)
    await node.settled()

    (stored,) = node.stored(f"{STREAM}.work.errors")
    assert stored.data == data
    assert node.module.calls == []
    assert node.replies == []


async def test_the_exit_node_answers_the_caller_with_the_error(start_node: StartNode) -> None:
    node = await start_node(FORWARDS, spec=node_spec(exit_channel="main"))

    await node.send_bytes(wire.encode(error_message(reply_to="caller", outcome="timeout")))
    await node.settled()

    (reply,) = node.replies
    assert (reply.type, reply.error, reply.outcome, reply.from_node) == (
        MessageType.ERROR, "broken", "timeout", "before",
    )  # fmt: skip
    assert len(node.stored(OUTPUT)) == 1


async def test_the_exit_node_tells_the_caller_of_its_own_failure(start_node: StartNode) -> None:
    node = await start_node(FAILS, spec=node_spec(exit_channel="main", retry=RetryPolicy(attempts=1)))

    await node.call(request_id="r5")
    await node.settled()

    (reply,) = node.replies
    assert (reply.type, reply.request_id, reply.outcome) == (MessageType.ERROR, "r5", "failed")


@pytest.mark.parametrize(
    ("source", "handled"),
    [
        ("handle_errors = True\nasync def handler(ctx, data: dict):\n  await ctx.send_output(ctx.error)", ["broken"]),
        ("async def handler(ctx, data):\n if ctx.is_message_error(): return ctx.error", ["broken"]),
        ("handle_errors = False\nasync def handler(ctx, data):\n if ctx.is_message_error(): return 1", []),
        ("async def handler(ctx, data): return 1", []),
    ],
)
async def test_a_module_may_ask_for_errors(start_node: StartNode, source: str, handled: list[str]) -> None:
    node = await start_node(source)

    await node.send_bytes(wire.encode(error_message()))
    await node.settled()

    assert node.outputs() == handled
    assert len(node.errors()) == (not handled)


async def test_never_gives_up_at_once_by_the_name_of_a_base(start_node: StartNode) -> None:
    retry = RetryPolicy(attempts=5, never=("LookupError",))
    node = await start_node("async def handler(ctx, data):\n return {}['k']", spec=node_spec(retry=retry))

    await node.call()
    await node.settled()

    letter = node.the_dead_letter()
    assert (letter.reason, len(letter.attempts)) == ("never", 1)


@pytest.mark.parametrize("how", ["raise", "return"])
async def test_reject_gives_up_at_once_with_its_reason(start_node: StartNode, how: str) -> None:
    node = await start_node(
        f"from runtime.errors import Reject\nasync def handler(ctx, data):\n  {how} Reject('not a number')"
    )

    await node.send()
    await node.settled()

    letter = node.the_dead_letter()
    assert (letter.reason, letter.error) == ("rejected", "Reject: not a number")
    (error,) = node.errors()
    assert error.error == "Error in node 'work' executing handler for node 'entrypoint': not a number"
    assert error.outcome == "invalid"


@pytest.mark.parametrize("how", ["raise", "return"])
async def test_drop_acks_without_an_output(start_node: StartNode, how: str) -> None:
    source = f"from runtime.errors import Drop\nasync def handler(ctx, data):\n  {how} Drop('old')"
    node = await start_node(source, spec=node_spec(exit_channel="main"))

    await node.call()
    await node.settled()

    assert (node.messages(), node.dead_letters()) == ([], [])
    assert [(reply.type, reply.outcome, reply.payload) for reply in node.replies] == [(MessageType.OK, "ok", b"")]


async def test_an_output_before_a_drop_that_finds_no_room_is_sent_again_by_the_next_delivery(
    start_node: StartNode,
) -> None:
    source = """
        from runtime.errors import Drop

        calls = []

        async def handler(ctx, data):
            calls.append(ctx.attempt)
            await ctx.send_output("x" * 2000)
            raise Drop("enough")
    """
    node = await start_node(source, max_bytes=1_000)

    await node.send()
    await node.until(lambda: node.process._publisher.held)
    await node.clock.advance(GIVE_UP_S + 1)
    stream = node.broker.streams.stream(STREAM)
    stream.config = replace(stream.config, max_bytes=0)
    await node.clock.advance(60)
    await node.settled()

    assert node.module.calls == [1, 2]
    assert node.outputs() == ["x" * 2000]


@pytest.mark.parametrize("how", ["raise", "return"])
async def test_retry_comes_again_when_it_was_asked_for(start_node: StartNode, how: str) -> None:
    node = await start_node(
        f"""
        from runtime.errors import Retry
        calls = []
        async def handler(ctx, data):
            calls.append(ctx.attempt)
            if len(calls) == 1:
                {how} Retry(30)
            return "done"
        """
    )
    await node.send()
    await node.released()

    await node.clock.advance(29)
    assert node.module.calls == [1]
    await node.clock.advance(2)

    assert node.module.calls == [1, 2]
    await node.settled()
    assert node.outputs() == ["done"]


@pytest.mark.parametrize(
    ("result", "reason", "text"),
    [
        ("object()", "encode", "EncodeError: object has no form in JSON; return JSON-able values, bytes or a protobuf"),
        ("{'a': {'b': float('inf')}}", "encode", "EncodeError: inf at a.b has no form in JSON"),
        ("b'x'", "", ""),
    ],
)
async def test_a_result_without_a_form_on_the_wire_is_given_up_at_once(
    start_node: StartNode, result: str, reason: str, text: str
) -> None:
    node = await start_node(f"async def handler(ctx, data): return {result}")

    await node.call()
    await node.settled()

    letters = [(letter.reason, letter.error[: len(text)]) for _, letter in node.dead_letters()]
    assert letters == ([(reason, text)] if reason else [])
    assert [error.outcome for error in node.errors()] == (["invalid"] if reason else [])


async def test_a_result_that_is_too_large_even_packed_is_given_up_and_the_caller_told(start_node: StartNode) -> None:
    node = await start_node(
        "import os\nasync def handler(ctx, data): return os.urandom(5_000_000)", spec=node_spec(exit_channel="main")
    )

    await node.call()
    await node.settled()

    assert node.the_dead_letter().reason == "too-large"
    (reply,) = node.replies
    assert (reply.type, reply.outcome) == (MessageType.ERROR, "too-large")
    assert "compressed message exceeds maximum size allowed" in reply.error


async def test_a_large_result_that_packs_well_passes(start_node: StartNode) -> None:
    node = await start_node("async def handler(ctx, data): return 'a' * 5_000_000", spec=node_spec(exit_channel="main"))

    await node.call()
    await node.settled()

    assert node.outputs() == ["a" * 5_000_000]
    assert len(node.stored()[0].data) < 10_000
    assert len(node.replies) == 1


async def test_a_message_as_large_as_the_server_takes_can_be_given_up(start_node: StartNode) -> None:
    """Its dead letter has a header that the message itself had not."""
    node = await start_node(FAILS, spec=node_spec(retry=RetryPolicy(attempts=1)))
    limit = node.bus.max_payload_bytes
    data = wire.encode(Message(request_id="r1", payload=encode_value("a" * (limit - 250))))

    await node.send_bytes(data)
    await node.settled()

    stored, letter = node.dead_letters()[0]
    assert wire.inflate(stored.data, 2 * limit) == data
    assert letter.error == "ValueError: this is wrong"


async def test_even_one_that_cannot_be_packed_ends(start_node: StartNode) -> None:
    node = await start_node(FAILS, spec=node_spec(retry=RetryPolicy(attempts=1)))
    data = wire.encode(Message(request_id="r1", payload=encode_value(os.urandom(node.bus.max_payload_bytes - 250))))

    await node.send_bytes(data)
    await node.settled()

    stored, letter = node.dead_letters()[0]
    assert stored.data == b""
    assert (letter.stream, letter.sequence, letter.reason) == (STREAM, 1, "failed")


async def test_an_exception_that_cannot_be_printed_is_given_up_like_any_other(start_node: StartNode) -> None:
    node = await start_node(
        """
        class Broken(Exception):
            def __str__(self):
                return self.missing

        async def handler(ctx, data):
            raise Broken()
        """,
        spec=node_spec(retry=RetryPolicy(attempts=1)),
    )

    await node.send()
    await node.settled()

    assert node.the_dead_letter().error == "Broken: (its text cannot be read: AttributeError)"


async def test_a_dead_letter_is_not_stored_where_the_node_keeps_none(
    start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    node = await start_node(FAILS, spec=node_spec(keep_dead_letters=False, retry=RetryPolicy(attempts=1)))

    await node.send()
    await node.settled()

    assert node.dead_letters() == []
    assert len(node.errors()) == 1
    assert [record.action for record in caplog.records if hasattr(record, "action")] == ["dead"]


async def test_a_message_whose_end_cannot_be_written_down_comes_again(start_node: StartNode) -> None:
    """The ERROR is stored, its confirmation is lost, and the same end is decided again: one ERROR, one dead letter."""
    node = await start_node(
        """
        calls = []

        async def handler(ctx, data):
            calls.append(ctx.attempt)
            for number in range(ctx.attempt):
                await ctx.send_output(number)
            raise ValueError("wrong")
        """,
        spec=node_spec(retry=RetryPolicy(attempts=1)),
    )
    term = node.process._readers[0].term
    lost: list[Any] = []

    def lose_the_first(delivery: Any) -> None:
        if not lost:
            lost.append(delivery)
            raise ConnectionError("away")
        term(delivery)

    node.process._readers[0].term = lose_the_first  # type: ignore[method-assign]  # the fault of this test
    await node.send()
    await node.clock.advance(20)
    await node.settled()

    assert node.module.calls == [1, 2]
    assert len(node.errors()) == 1
    assert node.the_dead_letter().reason == "failed"


async def test_a_full_stream_holds_the_node_and_charges_no_attempt(start_node: StartNode) -> None:
    source = """
        calls = []

        async def handler(ctx, data: int):
            calls.append((data, ctx.attempt))
            return "x" * 2000
    """
    node = await start_node(source, spec=node_spec(concurrency=1, retry=RetryPolicy(attempts=1)), max_bytes=20_000)
    node.process._readers[0].hold(True)
    for number in range(40):
        await node.send(number)
    node.process._readers[0].hold(False)
    await node.until(lambda: node.process._publisher.held)

    await node.clock.advance(300)
    assert node.dead_letters() == []
    assert node.errors() == []
    while node.state.ack_pending or node.state.pending:
        for output in node.stored(OUTPUT):
            await node.outside.delete_message(STREAM, output.sequence)
        await node.clock.advance(5)

    assert {data for data, _ in node.module.calls} == set(range(40))
    assert node.dead_letters() == []


async def test_the_slots_wait_while_too_many_ends_are_undecided(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.node.runner.MAX_FAILING", 2)
    node = await start_node(FAILS, spec=node_spec(concurrency=4))
    for _ in range(20):
        await node.send()
    await node.clock.advance(60)
    await node.settled()

    assert len(node.dead_letters()) == 20
    assert len(node.module.calls) == 60
