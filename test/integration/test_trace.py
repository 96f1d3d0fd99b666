"""One request put together from a stream, on a real nats-server and in memory."""

import os
from collections.abc import AsyncIterator

import pytest

from runtime import wire
from runtime.bus.base import Bus, Confirmation, StreamConfig
from runtime.bus.memory import MemoryBroker
from runtime.bus.nats import NatsBus
from runtime.clock import SystemClock
from runtime.inspection.redrive import Redriver
from runtime.inspection.trace import Fate, Step, Trace, trace
from runtime.message import Claim, Message, MessageType
from runtime.payload import encode_value
from runtime.spec import names
from runtime.spec.selection import SELECTION_METADATA, Conditions, JsonScalar, SelectionSpec
from test.support.letters import ENTRYPOINT, STREAM, Flow, envelope

SCORE = f"{STREAM}.score"


@pytest.fixture(params=["memory", "nats"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    made: Bus = (
        MemoryBroker(SystemClock()).connect()
        if request.param == "memory"
        else await NatsBus.connect([request.getfixturevalue("nats_server").url], name="trace")
    )
    yield made
    await made.close()


@pytest.fixture
async def flow(bus: Bus) -> AsyncIterator[Flow]:
    opened = await Flow(bus).open()
    yield opened
    await opened.close()


async def store(flow: Flow, subject: str, data: bytes, message_id: str) -> None:
    publisher = flow.bus.publisher(STREAM)
    stored = Confirmation()
    await publisher.publish(subject, data, message_id=message_id, confirm=stored)
    await stored
    await publisher.close()


def output(value: object = None, *, error: str = "", run_us: int = 0, node: str = "score") -> bytes:
    kind = MessageType.ERROR if error else MessageType.OK
    payload = b"" if error else encode_value(value)
    return wire.encode_output(Message(request_id="r1"), payload, from_node=node, kind=kind, error=error, run_us=run_us)


def step_of(seen: Trace, sequence: int, node: str) -> Step:
    [step] = [step for step in seen.steps[sequence] if step.node == node]
    return step


async def test_a_request_is_told_apart_from_all_others_and_each_output_hangs_below_its_input(flow: Flow) -> None:
    await flow.send(envelope({"n": 1}, "other"), "other")
    await flow.send(envelope({"n": 1}, "r1"), "r1")
    await store(flow, SCORE, output({"total": 8}, run_us=1_000), names.message_id("score", 2, 0))
    await store(flow, f"{SCORE}.unsure", output({"total": 9}), names.message_id("score", 2, 1))
    await store(flow, SCORE, envelope({"r1": 1}, "other"), names.message_id("score", 1, 0))

    seen = await trace(flow.bus, STREAM, "r1")

    assert [message.sequence for message in seen.messages] == [2, 3, 4]
    assert [message.sequence for message in seen.roots] == [2]
    step = step_of(seen, 2, "score")
    assert [message.sequence for message in step.outputs] == [3, 4]
    assert (step.run_s, step.took_s) == (0.001, (seen.messages[2].stored_ns - seen.messages[0].stored_ns) / 1e9)
    assert (seen.read, seen.complete) == (5, True)


async def test_a_step_without_an_output_is_told_by_its_consumer(flow: Flow) -> None:
    await flow.send(envelope({}, "r0"), "r0")
    await flow.send(envelope({}, "r1"), "r1")
    waiting = step_of(await trace(flow.bus, STREAM, "r1"), 2, "audit").fate
    await flow.handle("audit")
    in_hand = await flow.take("audit")
    in_work = step_of(await trace(flow.bus, STREAM, "r1"), 2, "audit")

    flow.readers["audit"].ack(in_hand)
    done = (await settled(flow, "audit")).fate

    assert (waiting, in_work.fate, done) == (Fate.WAITING, Fate.IN_WORK, Fate.DONE)
    assert (in_work.took_s, in_work.wait_s) == (None, None)


async def settled(flow: Flow, node: str) -> Step:
    """Return the step once its ack has arrived, which nobody confirms."""
    while (step := step_of(await trace(flow.bus, STREAM, "r1"), 2, node)).fate is Fate.IN_WORK:
        pass
    return step


async def test_a_node_that_has_left_a_message_out_is_not_shown_as_done_with_it(flow: Flow) -> None:
    await tell_conditions(flow, {"score": kinds("scan"), "audit": kinds("text", "fax")})
    await flow.send(request("text"))
    before = step_of(await trace(flow.bus, STREAM, "r1"), 1, "score").fate
    for node in ("score", "audit"):
        await flow.handle(node)

    seen = await trace(flow.bus, STREAM, "r1")

    assert before is Fate.WAITING
    left_out, handled = step_of(seen, 1, "score"), step_of(seen, 1, "audit")
    assert (left_out.fate, left_out.unfit) == (Fate.LEFT_OUT, "header 'kind'")
    assert handled.fate in (Fate.IN_WORK, Fate.DONE)
    assert handled.unfit == ""


@pytest.mark.parametrize("value", [{"label": "cow"}, {}, ["label"], b'{"label": "cow"}', b"no JSON", b""], ids=repr)
async def test_the_field_that_does_not_fit_is_told(flow: Flow, value: object) -> None:
    await tell_conditions(flow, {"score": Conditions(fields={"label": ("cat",)})})
    await flow.send(envelope(value, "r1"))
    await flow.handle("score")

    step = step_of(await trace(flow.bus, STREAM, "r1"), 1, "score")

    assert (step.fate, step.unfit) == (Fate.LEFT_OUT, "field 'label'")


@pytest.mark.parametrize("value", [{"label": "cat"}, b'{"label": "cat"}'], ids=repr)
async def test_a_message_that_has_the_fields_is_not_told_as_left_out(flow: Flow, value: object) -> None:
    await tell_conditions(flow, {"score": Conditions(fields={"label": ("cat",)})})
    await flow.send(envelope(value, "r1"))
    await flow.handle("score")

    step = step_of(await trace(flow.bus, STREAM, "r1"), 1, "score")

    assert step.fate in (Fate.IN_WORK, Fate.DONE)


async def test_of_a_payload_in_the_object_store_only_headers_are_seen(flow: Flow) -> None:
    fields: dict[str, tuple[JsonScalar, ...]] = {"label": ("cat",)}
    asked = {"score": Conditions(fields=fields), "audit": Conditions(headers={"kind": ("scan",)}, fields=fields)}
    await tell_conditions(flow, asked)
    claim = Claim(object="message/x/y", size=9, sha256="0" * 64)
    await flow.send(wire.encode(Message(request_id="r1", claim=claim, headers={"kind": "text"})))
    for node in ("score", "audit"):
        await flow.handle(node)

    seen = await trace(flow.bus, STREAM, "r1")

    assert step_of(seen, 1, "score").fate in (Fate.IN_WORK, Fate.DONE)
    assert step_of(seen, 1, "audit").unfit == "header 'kind'"


async def test_what_was_made_of_a_message_outweighs_conditions_that_came_later(flow: Flow) -> None:
    await flow.send(request("text"))
    await flow.handle("score")
    await store(flow, SCORE, output({"total": 8}), names.message_id("score", 1, 0))
    await tell_conditions(flow, {"score": kinds("scan")})

    seen = await trace(flow.bus, STREAM, "r1")

    assert step_of(seen, 1, "score").fate is Fate.DONE


async def test_an_error_is_left_out_by_no_node(flow: Flow) -> None:
    await tell_conditions(flow, {"score": kinds("scan")})
    await flow.send(output(error="wrong", node="entrypoint"))
    await flow.handle("score")

    seen = await trace(flow.bus, STREAM, "r1")

    assert step_of(seen, 1, "score").fate in (Fate.IN_WORK, Fate.DONE)


def request(kind: str) -> bytes:
    return wire.encode(Message(request_id="r1", payload=encode_value({}), headers={"kind": kind}))


def kinds(*values: str) -> Conditions:
    return Conditions(headers={"kind": values})


async def tell_conditions(flow: Flow, nodes: dict[str, Conditions]) -> None:
    """Tell what the nodes leave out of the workflow's requests, as the manager does."""
    spec = SelectionSpec(nodes={node: {ENTRYPOINT: conditions} for node, conditions in nodes.items()})
    metadata = {SELECTION_METADATA: spec.model_dump_json()}
    subjects = tuple(names.stream_subjects(STREAM))
    await flow.bus.ensure_stream(StreamConfig(name=STREAM, subjects=subjects, metadata=metadata))


async def test_a_dead_letter_and_its_redrive_hang_below_the_input_that_failed(flow: Flow) -> None:
    await flow.send(envelope({}))
    await flow.die(await flow.take("score"))
    await store(flow, SCORE, output(error="wrong"), names.message_id("score", 1, 0, mark="e"))
    dead = await trace(flow.bus, STREAM, "r1")
    async with Redriver(flow.bus, STREAM) as redriver:
        await redriver.redrive(await flow.the_letter())
    await flow.handle("score")
    await store(flow, SCORE, output({"total": 8}), names.message_id("score", 1, 0, redrive=1))

    seen = await trace(flow.bus, STREAM, "r1")

    step = step_of(dead, 1, "score")
    assert (step.fate, step.letter, [each.error for each in step.outputs]) == (
        Fate.DEAD,
        dead.letters[0],
        ["wrong"],
    )
    step = step_of(seen, 1, "score")
    assert step.fate is Fate.REDRIVEN
    assert step.redriven is not None and step.redriven.sequence == 3
    assert [message.sequence for message in step_of(seen, 3, "score").outputs] == [4]
    assert [message.sequence for message in seen.roots] == [1]
    # The redriven input is nobody's but the node's own.
    assert [each.node for each in seen.steps[3]] == ["score"]


async def test_an_error_that_is_passed_along_is_the_failure_of_its_sender_alone(flow: Flow) -> None:
    await flow.send(envelope({}))
    await store(flow, f"{STREAM}.audit", output(error="wrong", node="audit"), names.message_id("audit", 1, 0, mark="e"))
    await store(flow, SCORE, output(error="wrong", node="audit"), names.message_id("score", 1, 0, mark="e"))
    for node in ("score", "audit"):
        await flow.handle(node)

    seen = await trace(flow.bus, STREAM, "r1")

    assert step_of(seen, 1, "audit").fate is Fate.FAILED
    assert step_of(seen, 1, "score").fate is not Fate.FAILED


async def test_a_compressed_message_is_found_and_one_without_an_id_by_its_place(flow: Flow) -> None:
    packed = wire.fit(envelope({"text": "x" * 100_000}), 10_000)
    await flow.send(packed)
    await flow.send(envelope({}, ""), "somebody else's")

    assert packed.startswith(wire.GZIP_MAGIC)
    assert [message.sequence for message in (await trace(flow.bus, STREAM, "r1")).messages] == [1]
    assert [message.sequence for message in (await trace(flow.bus, STREAM, f"{STREAM}-2")).messages] == [2]


async def test_the_newest_messages_are_looked_at_when_there_are_too_many(flow: Flow) -> None:
    for number in range(30):
        await flow.send(envelope({}, f"r{number}"), f"r{number}")
    told: list[tuple[int, int]] = []

    seen = await trace(flow.bus, STREAM, "r25", limit=10, on_progress=lambda read, left: told.append((read, left)))
    missed = await trace(flow.bus, STREAM, "r5", limit=10)

    assert [message.sequence for message in seen.messages] == [26]
    assert (seen.read, seen.complete, missed.messages) == (10, False, ())
    assert told[-1] == (10, 0)


async def test_tracing_disturbs_nobody(flow: Flow) -> None:
    await flow.send(envelope({}))
    in_hand = await flow.take("score")
    before = await flow.bus.consumer_states(STREAM)

    await trace(flow.bus, STREAM, "r1")

    assert await flow.bus.consumer_states(STREAM) == before
    flow.readers["score"].ack(in_hand)


async def test_bytes_that_cannot_be_read_are_not_taken_for_the_request(flow: Flow) -> None:
    await flow.send(b"r1" + os.urandom(20))

    assert (await trace(flow.bus, STREAM, "r1")).messages == ()
