import json

import pytest

from runtime.batch.callback_url import check_url, fill
from runtime.batch.callbacks import GIVE_UP_S, Answer, Verdict, after_answer, body_of, verdict_on_start
from runtime.batch.run import CallbackRecord, Locations, Reason, RunRecord, RunState, Versions
from runtime.errors import CallbackError, ConfigError
from runtime.spec.batch import CallbackRules

FROM_REQUEST = "{callbackURL}/runs/{id}"
RUN = RunRecord(
    run_id="7_flood_0",
    id="7",
    node="flood",
    slug="flood",
    state=RunState.FAILED,
    reason=Reason.EXIT_CODE,
    detail="exit code 3: größer",
    image_digest="sha256:ab",
    versions=Versions(runner="1", model="2.4.0", connector="0.9.1"),
    locations=Locations(store="nats:runs", results="simulation-runs/0f"),
)


# --- what is told ---


def test_a_run_is_told_with_its_versions_and_locations() -> None:
    assert json.loads(body_of(RUN)) == {
        "modelSlug": "flood",
        "status": "failed",
        "reason": "EXIT_CODE",
        "detail": "exit code 3: größer",
        "resultsLocation": "nats:runs/simulation-runs/0f",
        "version": {"runner": "1", "model": "2.4.0", "connector": "0.9.1", "imageDigest": "sha256:ab"},
        "workflowRunID": "7",
        "runId": "7_flood_0",
    }


def test_a_text_that_is_no_unicode_can_be_told() -> None:
    assert b"\\udce9" in body_of(RUN.changed(detail="caf\udce9"))


# --- what an answer means ---


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (200, b"", Verdict.OK),
        (204, b"", Verdict.OK),
        (200, b"OK", Verdict.OK),
        (200, b"{}", Verdict.OK),
        (201, b'{"id": 3}', Verdict.OK),
        (200, b' {"action": "ok"}\n', Verdict.OK),
        (200, b'{"action": "cancel"}', Verdict.CANCEL),
        (202, b"Cancel", Verdict.CANCEL),
        (409, b"", Verdict.CANCEL),
        (410, b"gone", Verdict.CANCEL),
        (200, b'{"action": "wait"}', Verdict.REFUSED),
        (200, b"<html>welcome</html>", Verdict.REFUSED),
        (200, b"[" * 100_000, Verdict.REFUSED),
        (200, b"\xff\xfe", Verdict.REFUSED),
        (301, b"", Verdict.REFUSED),
        (400, b"", Verdict.REFUSED),
        (401, b"", Verdict.REFUSED),
        (404, b'{"action": "ok"}', Verdict.REFUSED),
        (408, b"", Verdict.NO_ANSWER),
        (425, b"", Verdict.NO_ANSWER),
        (429, b"", Verdict.NO_ANSWER),
        (500, b"", Verdict.NO_ANSWER),
        (503, b"", Verdict.NO_ANSWER),
        (0, b"", Verdict.NO_ANSWER),
    ],
)
def test_an_answer_to_the_start_is_read_as_the_table_says(status: int, body: bytes, verdict: Verdict) -> None:
    assert verdict_on_start(Answer(status, "", body)) is verdict


def test_a_completion_that_is_taken_is_told_no_more() -> None:
    end = CallbackRecord(status="pending", state="complete", since=1_000, next=1_000)

    told = after_answer(end, Answer(202, "HTTP status 202"), 2_000)

    assert (told.status, told.tries, told.next, told.answer) == ("sent", 1, 0, "HTTP status 202")


def test_a_completion_that_is_refused_is_told_again_ever_later_for_a_day() -> None:
    end = CallbackRecord(status="pending", state="complete", since=0, next=0)
    pauses_s = []

    while end.status == "pending":
        now_ms = end.next
        end = after_answer(end, Answer(404, "HTTP status 404"), now_ms)
        pauses_s.append((end.next - now_ms) / 1000)

    assert pauses_s[:8] == [10, 20, 40, 80, 160, 320, 640, 900]
    assert end.status == "callback-failed"
    assert now_ms <= GIVE_UP_S * 1000 < now_ms + 900_000


def test_a_server_that_asks_for_time_gets_it() -> None:
    end = CallbackRecord(status="pending", state="complete", since=0, next=0)

    assert after_answer(end, Answer(429, "", b"", 120.0), 5_000).next == 125_000


# --- where it goes ---


@pytest.mark.parametrize(
    ("id", "callback_url", "url"),
    [
        ("7", "https://app.example", "https://app.example/runs/7"),
        ("7", "https://app.example/", "https://app.example/runs/7"),
        ("a/../b?c#d", "https://app.example", "https://app.example/runs/a%2F..%2Fb%3Fc%23d"),
        ("{callbackURL}", "https://app.example", "https://app.example/runs/%7BcallbackURL%7D"),
        ("caf\udce9", "https://app.example/{id}", "https://app.example/{id}/runs/caf%3F"),
        ("7", "", ""),
    ],
)
def test_a_template_is_filled_in_once(id: str, callback_url: str, url: str) -> None:
    assert fill(FROM_REQUEST, id=id, callback_url=callback_url) == url


def test_without_a_template_nobody_is_told() -> None:
    assert fill("", id="7", callback_url="https://app.example") == ""


def test_a_template_with_an_unknown_placeholder_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\{slug\}.*\{callbackURL\} and \{id\}"):
        fill("https://app.example/{slug}", id="7", callback_url="")


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("https://app.example/*", "https://app.example/runs/7"),
        ("https://app.example/*", "https://APP.example/runs/7?a=/b"),
        ("https://app.example", "https://app.example"),
        ("https://app.example", "https://app.example/runs/7"),
        ("https://*.example/hooks/*", "https://app.example/hooks/7"),
        ("http://127.0.0.1:*/*", "http://127.0.0.1:8080/"),
        ("http://[::1]/*", "http://[::1]/x"),
    ],
)
def test_a_url_of_the_list_may_be_called(pattern: str, url: str) -> None:
    check_url(url, CallbackRules(url=FROM_REQUEST, allow=("https://other.example/*", pattern)))


@pytest.mark.parametrize(
    "url",
    [
        "http://app.example/runs",
        "https://app.example.evil.example/runs",
        "https://evil.example/https://app.example/runs",
        "https://app.example:8443/runs",
        "https://app.example@evil.example/runs",
        "https://user:password@app.example/runs",
        "https://app.example\\@evil.example/runs",
        "https://app.example/runs/../../admin",
        "https://app.example/runs/%2e%2E/admin",
        "https://app.example/runs\r\nX-Evil: 1",
        "https://app.example /runs",
        "https://app\u3002example/runs",
        "https://app..example/runs",
        "https://app.example:99999/runs",
        "https://[::1::]/runs",
        "https://evil.example#https://app.example/runs",
        "file:///etc/passwd",
        "//app.example/runs",
        "https://",
        "{callbackURL}",
    ],
)
def test_any_other_url_may_not_be_called(url: str) -> None:
    with pytest.raises(CallbackError, match="called"):
        check_url(url, CallbackRules(url=FROM_REQUEST, allow=("https://app.example/runs*",)))


def test_a_request_may_lead_nowhere_without_a_list() -> None:
    with pytest.raises(CallbackError, match=r"callback\.allow"):
        check_url("https://app.example/runs/7", CallbackRules(url=FROM_REQUEST))


def test_a_url_of_the_node_alone_needs_no_list() -> None:
    check_url("https://app.example/runs/7", CallbackRules(url="https://app.example/runs/{id}"))


def test_an_id_cannot_leave_the_path_of_the_node_s_own_url() -> None:
    template = "https://app.example/runs/{id}/end"

    with pytest.raises(CallbackError):
        check_url(fill(template, id="..", callback_url=""), CallbackRules(url=template))
