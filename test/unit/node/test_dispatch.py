"""Kind `dispatch` on a bus in memory: what becomes of a message, by how the call of its algorithm ends."""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from runtime.algorithms.wire import RUNNER_HEADER, VERSION_HEADER, Failure, Fault, Outcome, result_body
from runtime.bus.base import CoreMessage
from runtime.message import ReplyOutcome
from runtime.spec import names
from runtime.spec.node import DispatchSpec
from test.support.node import NodeUnderTest, node_spec
from test.unit.node.conftest import StartNode

StartDispatcher = Callable[..., Awaitable[NodeUnderTest]]

JOB = {"algorithm": "add", "payload": {"a": 1, "b": 2}}


@pytest.fixture
def start_dispatcher(start_node: StartNode) -> StartDispatcher:
    async def start(*, wait_s: float = 10.0, **options: Any) -> NodeUnderTest:
        spec = node_spec(dispatch=DispatchSpec(wait_for_runner_s=wait_s), **options)
        return await start_node("", spec=spec)

    return start


class Runner:
    """Answers the calls of one algorithm, one answer of the list after the other, the last one for ever."""

    def __init__(self, node: NodeUnderTest, *answers: Any, name: str = "add") -> None:
        self.calls: list[Any] = []
        self.headers: list[Any] = []
        self._node = node
        self._answers = list(answers)
        self._name = name

    async def start(self) -> "Runner":
        await self._node.outside.subscribe(names.algorithm_subject(self._name, "run"), self._on_call)
        return self

    def _on_call(self, message: CoreMessage) -> None:
        self.calls.append(orjson.loads(message.data))
        self.headers.append(message.headers)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        told = {RUNNER_HEADER: "sums", VERSION_HEADER: "v7"}
        if isinstance(answer, Failure):
            self._node.outside.send(message.reply, answer.encode(), headers={**told, **answer.headers()})
        else:
            self._node.outside.send(message.reply, result_body(orjson.dumps(answer)), headers=told)


def failure(outcome: Outcome, detail: str = "told by the runner", **more: Any) -> Failure:
    return Failure(outcome=outcome, detail=detail, **more)


async def pass_time(node: NodeUnderTest, seconds: float) -> None:
    """Let what is due in this time happen, one pause after the other."""
    for _ in range(round(seconds / 0.5)):
        await node.released()
        await node.clock.advance(0.5)
    await node.released()


async def test_a_result_goes_on_with_the_other_keys_of_its_message(start_dispatcher: StartDispatcher) -> None:
    node = await start_dispatcher()
    runner = await Runner(node, 3).start()

    await node.send({**JOB, "page": 7, "result": "of before"}, request_id="r9")
    await node.settled()

    (output,) = node.outputs()
    assert output.pop("time_ms") >= 0
    assert output == {"algorithm": "add", "result": 3, "runner": "sums", "version": "v7", "page": 7}
    assert runner.calls == [{"a": 1, "b": 2}]
    assert runner.headers[0]["Krt-Request-Id"] == "r9"


@pytest.mark.parametrize(
    ("data", "faults"),
    [
        ("text", ["it is str"]),
        ([1], ["it is list"]),
        (None, ["it is NoneType"]),
        ({}, ['"algorithm" is missing', '"payload" is missing']),
        ({"algorithm": 5, "payload": [1]}, ['"algorithm" is no name', '"payload" is no object']),
        ({"algorithm": "", "payload": {}}, ['"algorithm" is no name']),
    ],
)
async def test_a_malformed_message_is_a_dead_letter_with_every_fault(
    start_dispatcher: StartDispatcher, data: Any, faults: list[str]
) -> None:
    node = await start_dispatcher()

    await node.call(data)
    await node.settled()

    letter = node.the_dead_letter()
    assert letter.reason == "payload"
    assert all(fault in letter.error for fault in faults)
    assert [error.outcome for error in node.errors()] == [ReplyOutcome.INVALID]


@pytest.mark.parametrize("outcome", [Outcome.INVALID, Outcome.BAD_IMPLEMENTATION, Outcome.AUTH])
async def test_what_a_retry_cannot_help_is_a_dead_letter_at_once(
    start_dispatcher: StartDispatcher, outcome: Outcome
) -> None:
    node = await start_dispatcher()
    faults = [Fault("a", "is missing"), Fault("b", "is no number")]
    runner = await Runner(node, failure(outcome, "a: is missing; b: is no number", errors=faults)).start()

    await node.send(JOB)
    await node.settled()

    letter = node.the_dead_letter()
    assert letter.reason == "rejected"
    assert letter.error.endswith("algorithm 'add': a: is missing; b: is no number")
    assert len(runner.calls) == 1


async def test_an_algorithm_that_raises_is_tried_again_by_the_policy(start_dispatcher: StartDispatcher) -> None:
    node = await start_dispatcher()
    runner = await Runner(node, failure(Outcome.FAILED), failure(Outcome.FAILED), 3).start()

    await node.send(JOB)
    await pass_time(node, 4)

    assert [output["result"] for output in node.outputs()] == [3]
    assert len(runner.calls) == 3


async def test_an_algorithm_that_only_raises_leaves_its_traceback(start_dispatcher: StartDispatcher) -> None:
    node = await start_dispatcher()
    await Runner(node, failure(Outcome.FAILED, "KeyError: 'x'", traceback="in run_add\nKeyError: 'x'")).start()

    await node.send(JOB)
    await pass_time(node, 4)

    letter = node.the_dead_letter()
    assert (letter.reason, len(letter.attempts)) == ("failed", 3)
    assert letter.error == "AlgorithmError: KeyError: 'x'"
    assert "in run_add" in letter.traceback


async def test_a_deadline_is_told_as_one(start_dispatcher: StartDispatcher) -> None:
    node = await start_dispatcher()
    await Runner(node, failure(Outcome.TIMEOUT)).start()

    await node.send(JOB)
    await pass_time(node, 4)

    letter = node.the_dead_letter()
    assert (letter.reason, len(letter.attempts)) == ("timeout", 3)


async def test_a_cancelled_call_ends_its_message(start_dispatcher: StartDispatcher) -> None:
    node = await start_dispatcher()
    await Runner(node, failure(Outcome.CANCELLED)).start()

    await node.send(JOB)
    await node.settled()

    assert node.outputs() == []
    assert node.dead_letters() == []


async def test_a_busy_algorithm_is_tried_four_times_before_its_message_waits(
    start_dispatcher: StartDispatcher,
) -> None:
    node = await start_dispatcher(wait_s=1.0)
    busy = failure(Outcome.BUSY)
    runner = await Runner(node, *[busy] * 21, 3).start()

    await node.send(JOB)
    await node.released()
    assert len(runner.calls) == 4
    await pass_time(node, 20)

    assert [output["result"] for output in node.outputs()] == [3]
    assert len(runner.calls) == 22
    assert node.dead_letters() == []


async def test_a_message_waits_for_its_runner_and_uses_up_no_attempt(start_dispatcher: StartDispatcher) -> None:
    node = await start_dispatcher()
    await node.send(JOB)
    await pass_time(node, 8)

    runner = await Runner(node, failure(Outcome.FAILED), failure(Outcome.FAILED), 3).start()
    await pass_time(node, 10)

    assert [output["result"] for output in node.outputs()] == [3]
    assert len(runner.calls) == 3


async def test_other_messages_pass_those_that_wait(start_dispatcher: StartDispatcher) -> None:
    node = await start_dispatcher(concurrency=1)
    await Runner(node, 3).start()
    for number in range(20):
        await node.send({"algorithm": "missing", "payload": {}}, request_id=f"m{number}")

    await node.send(JOB)
    await node.released()

    assert [output["algorithm"] for output in node.outputs()] == ["add"]
    assert node.dead_letters() == []


@pytest.mark.parametrize(("was_seen", "word"), [(False, "known"), (True, "nobody serves")])
async def test_a_message_without_a_runner_is_given_up_after_its_time(
    start_dispatcher: StartDispatcher, was_seen: bool, word: str
) -> None:
    node = await start_dispatcher()
    if was_seen:
        bucket = await node.outside.key_value(names.ALGORITHMS_BUCKET, create=True)
        await bucket.put("add", orjson.dumps({"runner": "sums", "seen_ms": 1_000}))

    await node.call(JOB)
    await pass_time(node, 9.5)
    assert node.dead_letters() == []
    await pass_time(node, 1)

    letter = node.the_dead_letter()
    assert (letter.reason, letter.attempts) == ("unavailable", ())
    assert word in letter.error
    assert node.errors()[0].outcome == ReplyOutcome.UNAVAILABLE


async def test_a_missing_algorithm_is_told_once(
    start_dispatcher: StartDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    node = await start_dispatcher()
    await node.send(JOB)
    await node.send(JOB, request_id="r2")
    await pass_time(node, 3)
    await Runner(node, 3).start()
    await pass_time(node, 8)

    told = [record.__dict__.get("action") for record in caplog.records if record.name.endswith("builtin.dispatch")]
    assert told == ["no_runner", "runner_found"]


async def test_a_dispatcher_needs_no_file_of_its_own(tmp_path: Path, start_dispatcher: StartDispatcher) -> None:
    node = await start_dispatcher()
    (tmp_path / "handler.py").unlink()
    await Runner(node, 3).start()

    await node.send(JOB)
    await node.settled()

    assert len(node.outputs()) == 1
