"""A bare runner on KRE's first wire version: what goes to the next node, what to the entrypoint, and what nowhere."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.protobuf import any_pb2

from runtime.payload import decode_value, encode_value
from runtime.stores.base import Point
from runtime.stores.open import open_points
from test.support.kre import kre_message
from test.support.node import ENTRYPOINT, NODE, OUTPUT, STREAM, NodeUnderTest
from test.unit.node.conftest import StartNode

KreNatsMessage = kre_message(1)
INPUT = f"{STREAM}.before"
# What KRE's manager sets for a node of this version.
VARIABLES = {"NATS_INPUT": INPUT, "NATS_ENTRYPOINT_SUBJECT": ENTRYPOINT, "IS_LAST_NODE": "false"}
LAST = {**VARIABLES, "IS_LAST_NODE": "true", "NATS_OUTPUT": ENTRYPOINT}
# The clock of the tests stands at 2023-11-14 22:13:20 UTC.
PASSED = [
    {"node_name": "entrypoint", "start": "2023-11-14T22:13:17", "end": "2023-11-14T22:13:17.500000"},
    {"node_name": "before", "start": "2023-11-14T22:13:18", "end": "2023-11-14T22:13:19.500000"},
]

StartV1 = Callable[..., Awaitable[NodeUnderTest]]


@pytest.fixture
def start_v1(start_node: StartNode) -> StartV1:
    async def start(source: str, variables: dict[str, str] = VARIABLES, **options: Any) -> NodeUnderTest:
        return await start_node(source, bare=True, variables=variables, **options)

    return start


def message(value: Any = "in", **fields: Any) -> bytes:
    """Return a message as KRE's runner `before` sends it."""
    kre = KreNatsMessage(**{"tracking_id": "t", "reply": "r", "tracking": PASSED, **fields})
    if value is not None:
        kre.payload.ParseFromString(encode_value(value))
    return bytes(kre.SerializeToString())


async def handle(node: NodeUnderTest, data: bytes | None = None) -> None:
    await node.send_bytes(message() if data is None else data, subject=INPUT)
    await node.settled()


def sent(node: NodeUnderTest, subject: str) -> list[Any]:
    return [KreNatsMessage.FromString(stored.data) for stored in node.stored(subject)]


def value_of(kre: Any) -> Any:
    return decode_value(kre.payload.SerializeToString())


async def test_there_are_no_headers_to_set(start_v1: StartV1) -> None:
    node = await start_v1("def handler(ctx, data): ctx.set_header('kind', 'scan')")

    await handle(node)

    assert "KRE's first wire version has no headers" in node.the_dead_letter().error


async def test_a_result_goes_on_with_the_ids_of_its_input_and_an_entry_of_its_own(start_v1: StartV1) -> None:
    node = await start_v1("async def handler(ctx, data): return {'got': [ctx.request_id, ctx.from_node]}")

    await handle(node)

    (output,) = sent(node, OUTPUT)
    assert (output.tracking_id, output.reply, value_of(output)) == ("t", "r", {"got": ["r", "before"]})
    assert (output.replied, output.early_exit, output.error) == (False, False, "")
    assert [entry.node_name for entry in output.tracking] == ["entrypoint", "before", NODE]
    assert (output.tracking[2].start, output.tracking[2].end) == ("2023-11-14T22:13:20.000000",) * 2


async def test_the_handler_gets_the_raw_any_and_may_pass_it_on(start_v1: StartV1) -> None:
    node = await start_v1(
        """
        kinds = []
        async def handler(ctx, data: dict):
            kinds.append(type(data))
            return data
        """
    )

    await handle(node)

    assert node.module.kinds == [any_pb2.Any]
    assert value_of(sent(node, OUTPUT)[0]) == "in"


@pytest.mark.parametrize(
    ("result", "values"),
    [
        ("return [1, 2]", [1, 2]),
        ("yield 1\n    await ctx.send_output(2)\n    yield 3", [1, 2, 3]),
        ("await ctx.send_output(1)", [1]),
        ("from runtime.errors import Drop\n    return Drop()", []),
    ],
)
async def test_every_kind_of_result_becomes_outputs(start_v1: StartV1, result: str, values: list[Any]) -> None:
    node = await start_v1(f"async def handler(ctx, data):\n    {result}\n")

    await handle(node)

    assert [value_of(output) for output in sent(node, OUTPUT)] == values
    assert sent(node, ENTRYPOINT) == []
    assert node.dead_letters() == []


@pytest.mark.parametrize("result", ["return None", "return\n    yield", "ctx.early_exit()"])
async def test_none_is_an_error_for_the_caller_and_a_dead_letter(start_v1: StartV1, result: str) -> None:
    node = await start_v1(f"async def handler(ctx, data):\n    {result}\n")

    await handle(node)

    (error,) = sent(node, ENTRYPOINT)
    assert error.error == f"error in '{NODE}': handler returned None, expected a message"
    assert (error.tracking_id, error.reply, error.HasField("payload")) == ("t", "r", False)
    assert node.the_dead_letter().reason == "encode"
    assert sent(node, OUTPUT) == []


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("def handler(ctx, data): raise ValueError('no such model')", "no such model"),
        ("def handler(ctx, data): raise ValueError", "ValueError"),
        ("def handler(ctx, data): return {1, 2}", "set has no form in JSON"),
        ("def handler(ctx, data): return b'x' * 10_000_000 if False else __import__('os').urandom(2_000_000)",
         "compressed message 195"),
    ],
    ids=["raised", "without a text", "no message", "too large"],
)  # fmt: skip
async def test_a_failure_reaches_the_entrypoint_with_its_ids(start_v1: StartV1, source: str, text: str) -> None:
    node = await start_v1(source)

    await handle(node)

    (error,) = sent(node, ENTRYPOINT)
    assert error.error.startswith(f"error in '{NODE}': {text}")
    assert (error.tracking_id, error.reply) == ("t", "r")
    assert len(node.dead_letters()) == 1
    assert sent(node, OUTPUT) == []


async def test_an_error_of_a_node_before_passes_to_the_entrypoint_as_it_is(start_v1: StartV1) -> None:
    node = await start_v1(
        """
        called = []
        async def handler(ctx, data):
            called.append(ctx.is_message_error())
            return 1
        """
    )
    failed = message(None, error="error in 'before': no")

    await handle(node, failed)

    assert [stored.data for stored in node.stored(ENTRYPOINT)] == [failed]
    assert node.module.called == []
    assert sent(node, OUTPUT) == []


@pytest.mark.parametrize("member", ["reply", "early_reply", "send_early_reply"])
async def test_an_early_reply_goes_to_the_entrypoint_and_the_outputs_say_so(start_v1: StartV1, member: str) -> None:
    node = await start_v1(f"async def handler(ctx, data):\n    await ctx.{member}('soon')\n    return 'done'\n")

    await handle(node)

    (reply,) = node.stored(ENTRYPOINT)
    expected = KreNatsMessage(reply="r")
    expected.payload.ParseFromString(encode_value("soon"))
    assert reply.data == expected.SerializeToString()
    (output,) = sent(node, OUTPUT)
    assert (value_of(output), output.replied) == ("done", True)


@pytest.mark.parametrize("replied_before", [False, True])
async def test_a_second_early_reply_raises(start_v1: StartV1, replied_before: bool) -> None:
    node = await start_v1(
        """
        async def handler(ctx, data):
            try:
                await ctx.early_reply("first")
                await ctx.early_reply("second")
            except Exception as error:
                return str(error)
        """
    )

    await handle(node, message(replied=replied_before))

    assert [value_of(output) for output in sent(node, OUTPUT)] == ["error the message was replied previously"]
    assert [value_of(reply) for reply in sent(node, ENTRYPOINT)] == ([] if replied_before else ["first"])


async def test_an_early_reply_that_could_not_be_sent_may_be_tried_again(start_v1: StartV1) -> None:
    node = await start_v1(
        """
        import os
        async def handler(ctx, data):
            try:
                await ctx.early_reply(os.urandom(2_000_000))
            except Exception:
                await ctx.early_reply("smaller")
            return 1
        """
    )

    await handle(node)

    assert [value_of(reply) for reply in sent(node, ENTRYPOINT)] == ["smaller"]


@pytest.mark.parametrize("replied_before", [False, True])
async def test_after_an_early_reply_none_ends_the_branch(start_v1: StartV1, replied_before: bool) -> None:
    reply = "pass" if replied_before else "await ctx.early_reply('soon')"
    node = await start_v1(f"async def handler(ctx, data):\n    {reply}\n")

    await handle(node, message(replied=replied_before))

    assert len(sent(node, ENTRYPOINT)) == int(not replied_before)
    assert sent(node, OUTPUT) == []
    assert node.dead_letters() == []


async def test_the_last_node_publishes_nothing_for_who_has_been_replied_to(start_v1: StartV1) -> None:
    node = await start_v1("async def handler(ctx, data): return 'late'", LAST)

    await handle(node, message(replied=True))
    await handle(node)

    assert [value_of(output) for output in sent(node, ENTRYPOINT)] == ["late"]
    assert sent(node, ENTRYPOINT)[0].replied is False


@pytest.mark.parametrize(
    ("source", "by_input"),
    [
        ("async def handler(ctx, data):\n    ctx.early_exit()\n    return 'over'\n", False),
        ("async def handler(ctx, data):\n    await ctx.send_early_exit('over')\n    return 'ignored'\n", False),
        ("async def handler(ctx, data):\n    await ctx.send_early_exit('over')\n", False),
        ("async def handler(ctx, data): return 'over'", True),
    ],
    ids=["flag", "sent", "sent and nothing returned", "flag of the input"],
)
async def test_an_early_exit_goes_to_the_entrypoint_and_nothing_follows(
    start_v1: StartV1, source: str, by_input: bool
) -> None:
    node = await start_v1(source)

    await handle(node, message(early_exit=by_input))

    (answer,) = sent(node, ENTRYPOINT)
    assert (value_of(answer), answer.reply, answer.early_exit) == ("over", "r", False)
    assert [entry.node_name for entry in answer.tracking] == ["entrypoint", "before", NODE]
    assert sent(node, OUTPUT) == []
    assert node.dead_letters() == []


async def test_after_an_early_exit_that_could_not_be_sent_the_result_counts(start_v1: StartV1) -> None:
    node = await start_v1(
        """
        import os
        async def handler(ctx, data):
            try:
                await ctx.send_early_exit(os.urandom(2_000_000))
            except Exception:
                return "instead"
        """
    )

    await handle(node)

    assert [value_of(output) for output in sent(node, OUTPUT)] == ["instead"]


async def test_there_are_no_channels(start_v1: StartV1) -> None:
    node = await start_v1("async def handler(ctx, data): await ctx.send_output(1, 'side')")

    await handle(node)

    assert sent(node, ENTRYPOINT)[0].error.endswith("node 'work' declares no channel 'side'; declared: none")


async def test_the_function_wins_over_handlers_by_sender(start_v1: StartV1) -> None:
    node = await start_v1(
        """
        async def handler(ctx, data): return "function"
        async def default_handler(ctx, data): await ctx.send_output("by sender")
        custom_handlers = {"before": default_handler}
        """
    )

    await handle(node)

    assert [value_of(output) for output in sent(node, OUTPUT)] == ["function"]


async def test_handlers_by_sender_send_and_their_results_are_ignored(start_v1: StartV1) -> None:
    node = await start_v1(
        """
        async def before(ctx, data): await ctx.send_output("from before")
        async def default_handler(ctx, data): return "ignored"
        custom_handlers = {"before": before}
        """
    )

    await handle(node)
    await handle(node, message(tracking=[]))

    assert [value_of(output) for output in sent(node, OUTPUT)] == ["from before"]
    assert sent(node, ENTRYPOINT) == []


async def test_a_message_of_the_second_version_is_a_dead_letter_that_names_the_variable(start_v1: StartV1) -> None:
    node = await start_v1("async def handler(ctx, data): return 1")
    second = kre_message(2)(request_id="r", from_node="before", message_type=1).SerializeToString()

    await handle(node, second)

    letter = node.the_dead_letter()
    assert (letter.reason, letter.error.endswith("set KRT_WIRE=v2")) == ("wire", True)


async def test_a_message_without_an_id_is_answered_under_one_of_its_own(start_v1: StartV1) -> None:
    """KRE's runner sends an error without an id, which answers every caller that waits."""
    node = await start_v1("async def handler(ctx, data): raise ValueError('no')")

    await handle(node, message(reply=""))

    assert [error.reply for error in sent(node, ENTRYPOINT)] == [f"{STREAM}-1"]


async def points(node: NodeUnderTest, measurement: str) -> list[Point]:
    """Return what a stopped node has measured."""
    store = open_points(node.settings.influx_uri)
    try:
        return await store.query(measurement)
    finally:
        await store.close()


async def test_the_times_of_node_and_workflow_are_measured(start_v1: StartV1) -> None:
    node = await start_v1(
        """
        import asyncio
        go, running = asyncio.Event(), asyncio.Event()
        async def handler(ctx, data):
            running.set()
            await go.wait()
            return 1
        """,
        LAST,
    )
    await node.send_bytes(message(), subject=INPUT)
    await node.module.running.wait()
    await node.clock.advance(0.25)
    node.module.go.set()
    await node.settled()
    await node.stop()

    (own,) = await points(node, "node_elapsed_time")
    (whole,) = await points(node, "workflow_elapsed_time")

    assert own.tags == {"workflow": "greeter", "version": "v1", "node": NODE}
    assert own.fields == {"tracking_id": "t", "node_from": "before", "elapsed_ms": 250.0, "waiting_ms": 500.0}
    assert whole.tags == {"workflow": "greeter", "version": "v1"}
    assert whole.fields == {"tracking_id": "t", "elapsed_ms": 3250.0}


@pytest.mark.parametrize(
    "tracking",
    [[], [{"node_name": "before"}], [{"node_name": "before", "start": "2022-11-15T10:00:00Z", "end": "now"}]],
    ids=["no entry", "no time", "a zone"],
)
async def test_a_tracking_that_cannot_be_read_only_costs_the_metric(
    start_v1: StartV1, tracking: list[dict[str, str]]
) -> None:
    node = await start_v1("async def handler(ctx, data): return 'done'", LAST)

    await handle(node, message(tracking=tracking))
    outputs = sent(node, ENTRYPOINT)
    await node.stop()

    assert [value_of(output) for output in outputs] == ["done"]
    assert await points(node, "node_elapsed_time") == []
    assert await points(node, "workflow_elapsed_time") == []


async def test_a_failure_is_not_measured(start_v1: StartV1) -> None:
    node = await start_v1("async def handler(ctx, data): raise ValueError('no')")

    await handle(node)
    await node.stop()

    assert await points(node, "node_elapsed_time") == []
