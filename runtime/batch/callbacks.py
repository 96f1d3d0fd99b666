"""Asks whether a run may start, and tells how it has ended, over HTTP.

    POST <url>     {modelSlug, status, reason, detail, resultsLocation, exportLocation, version, workflowRunID, runId}
    Idempotency-Key: <run id>:<state>       the same for every repetition of what is told

| answer to the start | means |
|---|---|
| 2xx with nothing, `{}`, `{"action": "ok"}` or the word OK | the run may start |
| 2xx with `{"action": "cancel"}` or the word Cancel; 409, 410 | it is cancelled |
| none in time, 5xx, 408, 425, 429 | asked again `retries` times, then as below |
| anything else | `on_error`: the run fails, or starts all the same |

A completion is told when any 2xx is answered. Until then it is told again, for a day.
"""

import asyncio
import json
import logging
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from runtime.batch.callback_url import check_url, fill
from runtime.batch.records import RunRecords
from runtime.batch.run import CallbackRecord, RunRecord
from runtime.clock import Clock
from runtime.durations import retry_after_s
from runtime.errors import BusUnavailableError, CallbackError, ConfigError
from runtime.spec.batch import CallbackRules
from runtime.version import __version__

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

# Seconds before the first repetition in a row; each pause is twice the one before, to this many at most.
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 60.0
# The same for a completion that nobody has taken, whose run has let go of its worker; and for how long it is told.
FIRST_LATER_S, MAX_LATER_S = 10.0, 900.0
GIVE_UP_S = 86_400.0
# Bytes of an answer that are read: it is a word.
MAX_ANSWER_BYTES = 64 * 1024
# Statuses, beside 5xx, of a server that is busy or not ready.
PASSING = frozenset({408, 425, 429})
CANCELLING = frozenset({409, 410})


class Verdict(StrEnum):
    """What an answer says of a start."""

    OK = "ok"
    CANCEL = "cancel"
    REFUSED = "refused"
    NO_ANSWER = "no-answer"


# What the body of a success says; one that says nothing agrees.
_WORDS = {"": Verdict.OK, "ok": Verdict.OK, "cancel": Verdict.CANCEL}


class Answer(NamedTuple):
    """What came back. status: of HTTP, 0 for no answer. detail: for people and records, without what was said."""

    status: int
    detail: str
    body: bytes = b""
    retry_after_s: float = 0.0

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class HttpCallbacks:
    """See `parts.Callbacks`. To be closed."""

    def __init__(self, rules: CallbackRules, token: str, records: RunRecords, clock: Clock) -> None:
        """token: bearer token, "" for none. records: through which a start is asked for where there is no URL.

        Raises ConfigError for a URL that cannot be filled in, and for a missing extra.
        """
        self._rules = rules
        self._records = records
        self._clock = clock
        self._post = _Post(token, rules.timeout_s) if rules.url else None
        fill(rules.url, id="1", callback_url="https://localhost")

    async def close(self) -> None:
        if self._post is not None:
            await self._post.close()

    def url(self, id: str, callback_url: str) -> str:
        return fill(self._rules.url, id=id, callback_url=callback_url)

    async def ask_start(self, record: RunRecord) -> bool:
        if self._post is not None and record.callback_url:
            # Not even `ignore` lets a run go whose sender wants to be told where that is not allowed.
            check_url(record.callback_url, self._rules)
            answer = await self._ask(record, self._post)
        else:
            answer = await self._ask_on_bus(record)
        verdict = verdict_on_start(answer)
        if verdict in (Verdict.OK, Verdict.CANCEL):
            return verdict is Verdict.OK
        if self._rules.on_error == "fail":
            raise CallbackError(f"nobody has said that the run may start: {answer.detail}")
        log.warning(
            "run '%s' starts although nobody has said so: %s", record.run_id, answer.detail,
            extra={"action": "start-untold"},
        )  # fmt: skip
        return True

    async def tell_end(self, record: RunRecord) -> CallbackRecord:
        end = record.callbacks.end
        if self._post is None or not record.callback_url:
            return CallbackRecord()
        try:
            check_url(record.callback_url, self._rules)
        except CallbackError as error:
            return end.model_copy(update={"status": "callback-failed", "answer": str(error)})
        answer = await self._post(record.callback_url, body_of(record), _key(record, end))
        told = after_answer(end, answer, self._clock.time_ns() // 1_000_000)
        if told.status == "callback-failed":
            log.error(
                "nobody was told how run '%s' has ended, and nobody will be: %s", record.run_id, answer.detail,
                extra={"action": "callback-failed"},
            )  # fmt: skip
        return told

    async def _ask(self, record: RunRecord, post: "_Post") -> Answer:
        """Ask until there is an answer, or as often as may be."""
        body, key = body_of(record), _key(record, record.callbacks.start)
        answer = await post(record.callback_url, body, key)
        for repetition in range(self._rules.retries):
            if verdict_on_start(answer) is not Verdict.NO_ANSWER:
                break
            log.warning("run '%s' is asked for again: %s", record.run_id, answer.detail, extra={"action": "callback"})
            pause_s = max(FIRST_PAUSE_S * 2**repetition, answer.retry_after_s)
            await self._clock.sleep(min(pause_s, MAX_PAUSE_S))
            answer = await post(record.callback_url, body, key)
        return answer

    async def _ask_on_bus(self, record: RunRecord) -> Answer:
        try:
            said = await self._records.ask_start(record.run_id, body_of(record), self._rules.timeout_s)
        except BusUnavailableError as error:
            return Answer(0, str(error))
        return Answer(200, "an answer on NATS", said or b"")


def _key(record: RunRecord, callback: CallbackRecord) -> str:
    return f"{record.run_id}:{callback.state}"


class _Post:
    """Sends one request, and reads one answer."""

    def __init__(self, token: str, timeout_s: float) -> None:
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise ConfigError("callbacks need httpx: install krt-runtime[http]") from error
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        headers["User-Agent"] = f"krt-runtime/{__version__}"
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._timeout_s = timeout_s
        self._failures = (httpx.HTTPError, httpx.InvalidURL)
        # No redirects: they would lead past the list of what is allowed. No connection is kept for a call an hour.
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=None,
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def __call__(self, url: str, body: bytes, key: str) -> Answer:
        try:
            # Of the whole answer: a server may send a byte now and then.
            async with asyncio.timeout(self._timeout_s):
                async with self._client.stream("POST", url, content=body, headers={"Idempotency-Key": key}) as response:
                    return await self._read(response)
        except TimeoutError:
            return Answer(0, f"no answer within {self._timeout_s:g} s")
        except self._failures as error:
            return Answer(0, f"no answer: {type(error).__name__}")

    async def _read(self, response: "httpx.Response") -> Answer:
        said = bytearray()
        async for piece in response.aiter_raw():
            said += piece
            if len(said) > MAX_ANSWER_BYTES:
                break
        status = response.status_code
        return Answer(status, f"HTTP status {status}", bytes(said), retry_after_s(response.headers.get("Retry-After")))


def body_of(record: RunRecord) -> bytes:
    """Return what is told of a run, as JSON in UTF-8; what has no value is left out."""
    told = {key: value for key, value in record.result().items() if value is not None}
    version = {**record.versions.model_dump(), "imageDigest": record.image_digest}
    return json.dumps({**told, "version": version, "workflowRunID": record.id}, ensure_ascii=False).encode(
        "utf-8", "backslashreplace"
    )


def verdict_on_start(answer: Answer) -> Verdict:
    """Return what an answer to the start callback means, see the table of the module."""
    if answer.is_success:
        return _WORDS.get(_word(answer.body), Verdict.REFUSED)
    if answer.status in CANCELLING:
        return Verdict.CANCEL
    passes = answer.status == 0 or answer.status >= 500 or answer.status in PASSING
    return Verdict.NO_ANSWER if passes else Verdict.REFUSED


def _word(body: bytes) -> str:
    """Return the action that a body names, or the body itself where it is no JSON object; in lower case."""
    text = body.decode(errors="replace").strip()
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return text.lower()
    return str(said.get("action", "")).lower() if isinstance(said, dict) else str(said).lower()


def after_answer(end: CallbackRecord, answer: Answer, now_ms: int) -> CallbackRecord:
    """Return what is known of a completion after it was told once more."""
    tries = end.tries + 1
    told = end.model_copy(update={"tries": tries, "answer": answer.detail, "next": 0})
    if answer.is_success:
        return told.model_copy(update={"status": "sent"})
    pause_s = max(min(FIRST_LATER_S * 2 ** min(tries - 1, 30), MAX_LATER_S), answer.retry_after_s)
    next_ms = now_ms + round(pause_s * 1000)
    if next_ms > end.since + GIVE_UP_S * 1000:
        return told.model_copy(update={"status": "callback-failed"})
    return told.model_copy(update={"status": "pending", "next": next_ms})
