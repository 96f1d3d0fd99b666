"""Measurements in InfluxDB when the server is busy, away, silent, or refuses points. Served by the recording stub."""

import logging
import socket
import time
from collections.abc import Iterator

import pytest

from runtime.errors import StoreError
from runtime.stores.base import Point, PointCounts
from runtime.stores.influx import MAX_HALVINGS, InfluxPointStore
from runtime.stores.point_queue import CLOSE_S
from test.support.influx_stub import Answer, InfluxStub
from test.support.waiting import until

# Seconds after which a state that has to come counts as missed.
PATIENCE_S = 10.0
SECRET = "s3cr3t-token"
TYPE_CONFLICT = (
    b'{"code":"unprocessable entity","message":"failure writing points to database: partial write: field type conflict:'
    b' input field \\"n\\" on measurement \\"m\\" is type string, already exists as type integer dropped=2"}'
)


@pytest.fixture
def stub() -> Iterator[InfluxStub]:
    server = InfluxStub()
    yield server
    server.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where nobody listens, and where nobody can begin to while the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def open_store(url: str, *, batch_wait_s: float = 0.01, **options: float) -> InfluxPointStore:
    max_queued = int(options.pop("max_queued", 10_000))
    return InfluxPointStore(
        url, token=SECRET, org="lab", bucket="krt", batch_wait_s=batch_wait_s, max_queued=max_queued, **options
    )


def point(n: int) -> Point:
    return Point("m", {"n": n}, {"node": "score"}, 1_700_000_000_000_000_000 + n)


def lines(*numbers: int) -> list[str]:
    return [f"m,node=score n={n}i {1_700_000_000_000_000_000 + n}" for n in numbers]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_batch_goes_to_the_bucket_with_the_token_and_in_nanoseconds(stub: InfluxStub) -> None:
    store = open_store(stub.url)

    for n in range(3):
        store.save(point(n))
    await store.close()

    (request,) = stub.requests
    assert request.path == "/api/v2/write"
    assert request.query == {"org": "lab", "bucket": "krt", "precision": "ns"}
    assert request.headers["Authorization"] == f"Token {SECRET}"
    assert request.lines == lines(0, 1, 2)
    assert store.counts == PointCounts(written=3)


async def test_without_token_and_org_it_asks_as_1_8_wants_it(stub: InfluxStub) -> None:
    store = InfluxPointStore(stub.url, token="", org="", bucket="kre/autogen")

    store.save(point(1))
    await store.close()

    (request,) = stub.requests
    assert request.query == {"org": "-", "bucket": "kre/autogen", "precision": "ns"}
    assert "Authorization" not in request.headers


async def test_the_user_part_of_the_url_stands_in_for_the_token(stub: InfluxStub) -> None:
    store = InfluxPointStore(stub.url.replace("//", "//kre:p%40ss@") + "/", token="", org="", bucket="kre")

    store.save(point(1))
    await store.close()

    (request,) = stub.requests
    assert (request.path, request.headers["Authorization"]) == ("/api/v2/write", "Token kre:p@ss")


async def test_large_numbers_of_points_go_in_batches_of_1000(stub: InfluxStub) -> None:
    store = open_store(stub.url, batch_wait_s=3_600.0)

    for n in range(2_500):
        store.save(point(n))
    await until(lambda: store.counts.written == 2_000)
    await store.close()

    assert [len(request.lines) for request in stub.requests] == [1_000, 1_000, 500]
    assert stub.stored == lines(*range(2_500))


@pytest.mark.parametrize("status", [429, 503, 500, 502])
async def test_points_wait_while_the_server_is_busy(
    status: int, stub: InfluxStub, caplog: pytest.LogCaptureFixture
) -> None:
    stub.answers += [Answer(status, body=b'{"message":"too much"}')] * 2
    store = open_store(stub.url)

    store.save(point(1))
    await until(lambda: store.counts.written == 1)
    await store.close()

    assert stub.stored == lines(1)
    assert store.counts == PointCounts(written=1, retried=2, dropped=0)
    assert warnings_of(caplog) == [f"measurements wait: {stub.url} answers {status}: too much"]


async def test_the_pause_that_the_server_asks_for_is_kept(stub: InfluxStub) -> None:
    stub.answers.append(Answer(429, {"Retry-After": "1"}))
    store = open_store(stub.url)

    start = time.monotonic()
    store.save(point(1))
    await until(lambda: store.counts.written == 1)

    assert time.monotonic() - start >= 1.0
    assert len(stub.requests) == 2
    await store.close()


async def test_closing_does_not_ask_a_server_again_that_wants_to_be_left_alone(stub: InfluxStub) -> None:
    stub.answers.append(Answer(429, {"Retry-After": "60"}))
    store = open_store(stub.url)
    store.save(point(1))
    await until(lambda: store.counts.retried == 1)

    start = time.monotonic()
    await store.close()

    assert time.monotonic() - start < CLOSE_S / 2
    assert len(stub.requests) == 1
    assert store.counts == PointCounts(written=0, retried=1, dropped=1)


async def test_closing_does_not_wait_for_the_end_of_a_pause_of_our_own(stub: InfluxStub) -> None:
    stub.answers += [Answer(503)] * 5
    store = open_store(stub.url)
    store.save(point(1))
    await until(lambda: store.counts.retried == 5)

    start = time.monotonic()
    await store.close()

    # The fifth pause is 0.8 s at least.
    assert time.monotonic() - start < 0.7
    assert stub.stored == lines(1)
    assert store.counts == PointCounts(written=1, retried=5, dropped=0)


async def test_a_refused_connection_delays_nothing_and_drops_the_oldest(
    silent_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(f"http://127.0.0.1:{silent_port}", max_queued=100)
    store.save(point(0))
    await until(lambda: store.counts.retried > 0)

    durations = []
    for n in range(1, 1_000):
        start = time.perf_counter()
        store.save(point(n))
        durations.append(time.perf_counter() - start)
    start = time.monotonic()
    await store.close()
    took_s = time.monotonic() - start

    # The median: a single call may wait for the interpreter, which another thread holds.
    assert sorted(durations)[len(durations) // 2] < 50e-6
    assert took_s < CLOSE_S + 0.2
    assert (store.counts.written, store.counts.dropped) == (0, 1_000)
    assert warnings_of(caplog) == [
        f"measurements wait: http://127.0.0.1:{silent_port} gives no answer (NewConnectionError)"
    ]


async def test_a_server_without_tls_is_waited_for_as_one_that_is_away(
    stub: InfluxStub, caplog: pytest.LogCaptureFixture
) -> None:
    url = stub.url.replace("http://", "https://")
    store = open_store(url)

    store.save(point(1))
    await until(lambda: store.counts.retried > 0)
    await store.close()

    assert (store.counts.written, store.counts.dropped) == (0, 1)
    (warning,) = warnings_of(caplog)
    assert warning.startswith(f"measurements wait: {url}: no TLS connection: SSLError [SSL: WRONG_VERSION_NUMBER]")


async def test_an_answer_that_is_no_text_is_no_answer(stub: InfluxStub) -> None:
    stub.answers.append(Answer(503, body=b"\xff\xfe"))
    store = open_store(stub.url)

    store.save(point(1))
    await until(lambda: store.counts.written == 1)
    await store.close()

    assert store.counts == PointCounts(written=1, retried=1, dropped=0)


async def test_a_reply_that_never_comes_is_given_up_and_sent_again(stub: InfluxStub) -> None:
    stub.answers.append(Answer(hangs=True))
    store = open_store(stub.url, request_timeout_s=0.2)

    store.save(point(1))
    await until(lambda: store.counts.written == 1)
    await store.close()

    assert [request.lines for request in stub.requests] == [lines(1)] * 2
    assert store.counts == PointCounts(written=1, retried=1, dropped=0)


async def test_closing_does_not_wait_for_a_reply_that_never_comes(stub: InfluxStub) -> None:
    stub.answers.append(Answer(hangs=True))
    store = open_store(stub.url)
    store.save(point(1))
    await until(lambda: len(stub.requests) == 1)
    store.save(point(2))

    start = time.monotonic()
    await store.close()

    assert time.monotonic() - start < CLOSE_S + 0.2
    assert store.counts == PointCounts(written=0, retried=0, dropped=2)


async def test_one_bad_point_does_not_take_its_neighbours(stub: InfluxStub, caplog: pytest.LogCaptureFixture) -> None:
    bad = set(lines(7, 500, 999))
    stub.is_bad = bad.__contains__
    store = open_store(stub.url, batch_wait_s=3_600.0)

    for n in range(1_000):
        store.save(point(n))
    await store.close()

    assert sorted(stub.stored) == sorted(set(lines(*range(1_000))) - bad)
    assert store.counts == PointCounts(written=997, retried=0, dropped=3)
    assert warnings_of(caplog) == [
        f"measurements are refused: {stub.url} answers 400: unable to parse a line: bad timestamp"
    ]


async def test_a_batch_of_bad_points_costs_a_bounded_number_of_requests(stub: InfluxStub) -> None:
    stub.is_bad = lambda line: True
    store = open_store(stub.url, batch_wait_s=3_600.0)

    for n in range(1_000):
        store.save(point(n))
    await store.close()

    assert len(stub.requests) == 2 * MAX_HALVINGS + 1
    assert store.counts == PointCounts(written=0, retried=0, dropped=1_000)


async def test_what_a_partial_write_has_dropped_is_not_sent_again(stub: InfluxStub) -> None:
    stub.answers.append(Answer(422, body=TYPE_CONFLICT))
    store = open_store(stub.url)

    for n in range(5):
        store.save(point(n))
    await store.close()

    assert len(stub.requests) == 1
    assert store.counts == PointCounts(written=3, retried=0, dropped=2)


async def test_an_outage_amid_the_halving_repeats_the_batch_and_counts_each_point_once(stub: InfluxStub) -> None:
    stub.is_bad = set(lines(3)).__contains__
    stub.answers += [Answer(400), Answer(), Answer(503)]
    store = open_store(stub.url, batch_wait_s=3_600.0)

    for n in range(8):
        store.save(point(n))
    await store.close()

    assert set(stub.stored) == set(lines(0, 1, 2, 4, 5, 6, 7))
    assert store.counts == PointCounts(written=7, retried=8, dropped=1)


@pytest.mark.parametrize("status", [401, 404])
async def test_a_request_that_a_person_has_to_mend_loses_its_batch_and_says_what_to_check(
    status: int, stub: InfluxStub, caplog: pytest.LogCaptureFixture
) -> None:
    stub.answers.append(Answer(status, body=b'{"code":"x","message":"no such thing"}'))
    store = open_store(stub.url)

    store.save(point(1))
    await until(lambda: store.counts.dropped == 1)
    store.save(point(2))
    await store.close()

    assert stub.stored == lines(2)
    assert store.counts == PointCounts(written=1, retried=0, dropped=1)
    assert warnings_of(caplog) == [
        f"measurements are lost: {stub.url} answers {status}: no such thing;"
        " check KRT_INFLUX_URI, KRT_INFLUX_TOKEN, KRT_INFLUX_ORG and KRT_INFLUX_BUCKET"
    ]
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "impossible",
    [
        Point("m", {"n": object()}, {}, 1),  # type: ignore[dict-item]  # what no checked point holds
        Point("m", {"n": float("nan")}, {}, 1),
        Point("m", {"text": "\ud800"}, {}, 1),
        Point("#m", {"n": 1}, {}, 1),
    ],
    ids=["type", "nan", "surrogate", "comment"],
)
async def test_a_point_that_line_protocol_cannot_hold_is_dropped_alone(impossible: Point, stub: InfluxStub) -> None:
    store = open_store(stub.url, batch_wait_s=3_600.0)

    store.save(point(1))
    store.save(impossible)
    store.save(point(2))
    await store.close()

    assert stub.stored == lines(1, 2)
    assert store.counts == PointCounts(written=2, retried=0, dropped=1)


async def test_text_is_escaped(stub: InfluxStub) -> None:
    store = open_store(stub.url)

    store.save(Point("my m", {"a b": 'say "hi"\\'}, {"t,1": "x=y"}, 1))
    await store.close()

    assert stub.stored == ['my\\ m,t\\,1=x\\=y a\\ b="say \\"hi\\"\\\\" 1']


async def test_reading_back_is_left_to_the_tools_of_influxdb(stub: InfluxStub) -> None:
    store = open_store(stub.url)

    with pytest.raises(StoreError, match=r"look for 'm' in the bucket 'krt' of http://127\.0\.0\.1"):
        await store.query("m")

    await store.close()
    assert stub.requests == []
