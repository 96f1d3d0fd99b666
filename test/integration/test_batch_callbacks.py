"""Callbacks of batch runs to servers that work, and to every kind of server that does not."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runtime.batch.callbacks import HttpCallbacks
from runtime.batch.records import RunRecords
from runtime.batch.run import CallbackRecord, Callbacks, Reason, RunRecord, RunState
from runtime.bus.base import CoreMessage
from runtime.bus.memory import MemoryBroker
from runtime.clock import SystemClock
from runtime.errors import CallbackError
from runtime.spec import names
from runtime.spec.batch import CallbackRules
from test.support.callback_server import Answering, CallbackServer, drip, flood, never, raw, status
from test.support.ports import free_port

STREAM = "prod_v1_floods"
TOKEN = "the-secret"
# Seconds for one attempt: these servers are near, and half of them never answer.
TIMEOUT_S = 0.3
GARBAGE = raw(b"\x00\x01 this is no HTTP\r\n\r\n")
BROKEN_OFF = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
REDIRECT = status(302, b"", "Location: http://127.0.0.1:1/elsewhere")


class HurriedClock(SystemClock):
    """A clock that remembers for how long somebody wanted to sleep, and does not let them."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []

    async def sleep(self, delay_s: float) -> None:
        self.slept_s.append(delay_s)


class Bench:
    """Callbacks to one server, and what they need."""

    def __init__(self, server_url: str, rules: dict[str, Any]) -> None:
        self.clock = HurriedClock()
        self.bus = MemoryBroker(self.clock).connect()
        self.rules = CallbackRules(
            **{"url": "{callbackURL}/runs/{id}", "allow": ("http://127.0.0.1:*/*",), "timeout_s": TIMEOUT_S, **rules}
        )
        self.callbacks = HttpCallbacks(self.rules, TOKEN, RunRecords(self.bus, STREAM, self.clock), self.clock)
        self._server_url = server_url

    def run(self, state: RunState = RunState.STARTING, **changes: Any) -> RunRecord:
        """Return the record of a run whose callback in this state is due."""
        due = CallbackRecord(status="pending", state=state, since=self.clock.time_ns() // 1_000_000)
        said = {"callback_url": self.callbacks.url("7", self._server_url), **changes}
        callbacks = Callbacks(start=due, end=due)
        return RunRecord(
            run_id="7_flood_0", id="7", node="flood", slug="größe", state=state, callbacks=callbacks, **said
        )


@asynccontextmanager
async def calling(*answers: Answering, **rules: Any) -> AsyncIterator[tuple[Bench, CallbackServer]]:
    async with CallbackServer(*answers) as server:
        bench = Bench(server.url, rules)
        try:
            yield bench, server
        finally:
            await bench.callbacks.close()


# --- a server that works ---


async def test_a_start_is_asked_for_with_token_key_and_exact_length() -> None:
    async with calling(status(200)) as (bench, server):
        may_start = await bench.callbacks.ask_start(bench.run())

    [request] = server.requests
    assert may_start
    assert request.line == "POST /runs/7 HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["idempotency-key"] == "7_flood_0:starting"
    assert request.headers["content-type"] == "application/json"
    # In bytes: with the number of characters, the server would cut the last brace off.
    assert int(request.headers["content-length"]) == len(request.body) == len(request.body.decode()) + 2
    assert request.json()["modelSlug"] == "größe"
    assert request.json()["status"] == "in-progress"
    assert request.json()["runId"] == "7_flood_0"


@pytest.mark.parametrize("answer", [status(200, b'{"action": "cancel"}'), status(409), status(410)])
async def test_a_run_is_cancelled_by_the_answer_to_its_start(answer: Answering) -> None:
    async with calling(answer) as (bench, server):
        assert not await bench.callbacks.ask_start(bench.run())

    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("state", "reason", "word"),
    [
        (RunState.COMPLETE, None, "complete"),
        (RunState.UNSUPPORTED, Reason.UNSUPPORTED_INPUT, "unsupported"),
        (RunState.FAILED, Reason.PULL_FAILED, "failed"),
        (RunState.CANCELLED, Reason.CANCELLED, "failed"),
        (RunState.TIMED_OUT, Reason.TIMEOUT, "failed"),
    ],
)
async def test_every_ending_is_told_with_its_word_and_reason(state: RunState, reason: Reason | None, word: str) -> None:
    async with calling(status(204)) as (bench, server):
        told = await bench.callbacks.tell_end(bench.run(state, reason=reason))

    [request] = server.requests
    assert (told.status, told.tries) == ("sent", 1)
    assert request.json()["status"] == word
    assert request.json().get("reason") == reason
    assert request.headers["idempotency-key"] == f"7_flood_0:{state}"


# --- servers that do not ---


@pytest.mark.parametrize(
    "answer",
    [status(500), status(503), status(429), never, drip, GARBAGE, BROKEN_OFF, raw(b"")],
    ids=["500", "503", "429", "slow", "drips", "garbage", "breaks off", "closes"],
)
async def test_a_start_without_an_answer_is_asked_for_again_under_one_key(answer: Answering) -> None:
    async with calling(answer, answer, status(200), retries=2) as (bench, server):
        assert await bench.callbacks.ask_start(bench.run())

    assert [request.headers["idempotency-key"] for request in server.requests] == ["7_flood_0:starting"] * 3
    assert bench.clock.slept_s == [0.5, 1.0]


@pytest.mark.parametrize(
    ("answer", "said", "requests"),
    [
        (status(404), "404", 1),
        (status(401), "401", 1),
        (REDIRECT, "302", 1),
        (status(200, b"<html>hello</html>"), "200", 1),
        (flood, "200", 1),
        (status(500), "500", 3),
        (never, "no answer within 0.3 s", 3),
        (drip, "no answer within 0.3 s", 3),
        (GARBAGE, "no answer: RemoteProtocolError", 3),
    ],
    ids=["404", "401", "redirect", "page", "flood", "500", "slow", "drips", "garbage"],
)
async def test_a_start_that_nobody_allows_fails_the_run_unless_it_is_to_be_ignored(
    answer: Answering, said: str, requests: int
) -> None:
    async with calling(answer, retries=2) as (bench, server):
        with pytest.raises(CallbackError, match=said):
            await bench.callbacks.ask_start(bench.run())
        assert len(server.requests) == requests
    async with calling(answer, retries=0, on_error="ignore") as (bench, _):
        assert await bench.callbacks.ask_start(bench.run())


async def test_a_server_that_is_away_is_asked_as_often_as_may_be() -> None:
    bench = Bench(f"http://127.0.0.1:{free_port()}", {"retries": 1})

    with pytest.raises(CallbackError, match="no answer: ConnectError"):
        await bench.callbacks.ask_start(bench.run())

    assert bench.clock.slept_s == [0.5]
    await bench.callbacks.close()


async def test_a_server_that_asks_for_time_gets_it() -> None:
    async with calling(status(429, b"", "Retry-After: 7"), status(200)) as (bench, _):
        assert await bench.callbacks.ask_start(bench.run())

    assert bench.clock.slept_s == [7.0]


@pytest.mark.parametrize(
    "answer",
    [status(404), status(401), status(409), status(500), REDIRECT, never, GARBAGE],
    ids=["404", "401", "409", "500", "redirect", "slow", "garbage"],
)
async def test_a_completion_that_is_not_taken_stays_pending(answer: Answering) -> None:
    async with calling(answer, status(200)) as (bench, server):
        run = bench.run(RunState.COMPLETE)
        told = await bench.callbacks.tell_end(run)
        again = await bench.callbacks.tell_end(run.changed(callbacks=Callbacks(end=told)))

    assert (told.status, told.tries) == ("pending", 1)
    assert told.next >= run.callbacks.end.since + 10_000
    assert (again.status, again.tries) == ("sent", 2)
    assert len({request.headers["idempotency-key"] for request in server.requests}) == 1


async def test_a_url_that_is_not_allowed_is_not_called_even_if_errors_are_ignored() -> None:
    async with calling(status(200), allow=("https://app.example/*",), on_error="ignore") as (bench, server):
        with pytest.raises(CallbackError, match=r"callback\.allow"):
            await bench.callbacks.ask_start(bench.run())
        told = await bench.callbacks.tell_end(bench.run(RunState.FAILED))

    assert told.status == "callback-failed"
    assert server.requests == []


async def test_an_error_tells_no_secret() -> None:
    async with calling(status(500, TOKEN.encode()), retries=0) as (bench, _):
        with pytest.raises(CallbackError) as caught:
            await bench.callbacks.ask_start(bench.run())

    assert TOKEN not in str(caught.value)


# --- nobody to call ---


async def test_without_a_url_a_run_starts_and_its_end_is_told_to_nobody() -> None:
    bench = Bench("", {})

    assert await bench.callbacks.ask_start(bench.run())
    assert (await bench.callbacks.tell_end(bench.run(RunState.COMPLETE))).status == ""
    await bench.callbacks.close()


@pytest.mark.parametrize(("action", "may_start"), [("ok", True), ("cancel", False)])
async def test_without_a_url_whoever_listens_on_nats_is_asked(action: str, may_start: bool) -> None:
    bench = Bench("", {"url": ""})

    def on_question(question: CoreMessage) -> None:
        assert json.loads(question.data)["runId"] == "7_flood_0"
        bench.bus.send(question.reply, json.dumps({"action": action}).encode())

    await bench.bus.subscribe(names.run_subject(STREAM, "7_flood_0", "start"), on_question)

    assert await bench.callbacks.ask_start(bench.run()) is may_start
