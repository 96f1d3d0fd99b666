"""Connections that do harm to an HTTP server which trusts them: each is let go, and others are served meanwhile."""

import asyncio
import contextlib

import orjson
import pytest

from runtime.drivers.fastapi_driver import FastAPIDriver
from runtime.drivers.http.protocol import HttpLimits
from test.support.http import PATIENCE_S, Web, predict_bytes, serving
from test.support.waiting import until

LIMITS = HttpLimits(head_bytes=4096, pipelined=10)
HEAD = b"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
# A request that is never answered, for a client that waits for nothing.
SILENT = predict_bytes({"inputs": {"silent": True}, "timeout": 60})
# Seconds after which a client is let go that dribbles, in the tests of that.
SHORT_S = 0.1


def limited(limits: HttpLimits = LIMITS) -> FastAPIDriver:
    return FastAPIDriver(limits=limits)


async def answer_to(web: Web, data: bytes) -> tuple[bytes, bytes]:
    """Send what ends the connection; returns the head and the body of the answer."""
    reader, writer = await web.send_raw(data)
    async with asyncio.timeout(PATIENCE_S):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head, body


async def sent_until_closed(web: Web, begin: bytes, part: bytes, *, at_most: int = 10_000) -> tuple[int, bytes]:
    """Send `part` again and again until the server has closed; returns how many times, and what was answered."""
    reader, writer = await web.send_raw(begin)
    answered = bytearray()
    reading = asyncio.create_task(read_into(answered, reader))
    count = 0
    while count < at_most and not reading.done():
        count += 1
        writer.write(part)
        await asyncio.wait([reading], timeout=0.001)
    async with asyncio.timeout(PATIENCE_S):
        await reading
    writer.close()
    return count, bytes(answered)


async def read_into(answered: bytearray, reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):  # it was closed before all that had been sent was read
        while data := await reader.read(65_536):
            answered += data


async def is_served(web: Web) -> bool:
    return (await web.http.post("/predict", json=1)).status_code == 200


@pytest.mark.parametrize(
    "head",
    [b"X-Large: " + bytes(5_000).replace(b"\0", b"x"), b"X: y\r\n" * 1_000 + b"X: y", b"X" * 5_000 + b": y"],
    ids=["a value", "many", "a name"],
)
async def test_headers_that_are_too_large_are_refused_with_431(head: bytes) -> None:
    async with serving(limited) as web:
        answered, body = await answer_to(web, HEAD + head + b"\r\nContent-Length: 2\r\n\r\n{}")
        served = await is_served(web)

    assert answered.startswith(b"HTTP/1.1 431 ") and b"connection: close" in answered
    assert orjson.loads(body) == {"outcome": "too-large", "detail": "the headers are larger than 4,096 bytes"}
    assert served


async def test_a_path_that_is_too_long_is_refused_with_431() -> None:
    async with serving(limited) as web:
        answered, _ = await answer_to(web, b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\nHost: test\r\n\r\n")

    assert answered.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    ("begin", "part"),
    [
        (HEAD + b"X-Endless: ", b"x" * 100),
        (HEAD, b"X: y\r\n" * 20),
        (b"GET /", b"x" * 100),
        (b"", b"\r\n" * 50),
        (CHUNKED + b"2;", b"x" * 100),
        (CHUNKED + b"2\r\n{}\r\n0\r\nX-Trailer: ", b"x" * 100),
    ],
    ids=["a header", "headers", "a path", "empty lines", "a chunk's extension", "a trailer"],
)
async def test_what_has_no_end_is_not_kept(begin: bytes, part: bytes) -> None:
    async with serving(limited) as web:
        count, _ = await sent_until_closed(web, begin, part)
        served = await is_served(web)

    # The kernel's buffers take some more before the end of the connection is seen.
    assert count < 1_000
    assert served


async def test_requests_without_end_behind_one_that_waits_are_not_kept() -> None:
    async with serving(limited) as web:
        reader, writer = await web.send_raw(SILENT * (LIMITS.pipelined + 2))

        async with asyncio.timeout(PATIENCE_S):
            answered = await reader.read()
        writer.close()
        await until(lambda: web.driver.in_flight == 0)
        served = await is_served(web)

    assert (answered, served) == (b"", True)


async def test_a_few_requests_in_one_go_are_answered_in_their_order() -> None:
    async with serving(limited) as web:
        requests = b"".join(predict_bytes(number) for number in range(LIMITS.pipelined))
        last = predict_bytes("last", "Connection: close")
        reader, writer = await web.send_raw(requests + last)

        async with asyncio.timeout(PATIENCE_S):
            answers = (await reader.read()).split(b"HTTP/1.1 200 OK\r\n")[1:]
        writer.close()

    assert [answer.partition(b"\r\n\r\n")[2] for answer in answers] == [b"%d" % number for number in range(10)] + [
        b'"last"'
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HELO mail.example\r\n\r\n",
        CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n") + b"2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"X: a\0b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
    ],
    ids=["TLS", "no HTTP", "two lengths of a body", "lengths that differ", "a negative length", "NUL", "a wild path"],
)
async def test_what_is_no_request_is_answered_once_and_let_go(data: bytes) -> None:
    async with serving(limited) as web:
        answered, body = await answer_to(web, data)
        served = await is_served(web)

    assert answered.startswith(b"HTTP/1.1 400 ") and answered.count(b"HTTP/1.1") == 1
    assert orjson.loads(body)["outcome"] == "invalid"
    assert served


async def test_rubbish_behind_a_request_that_waits_is_not_taken_for_its_answer() -> None:
    async with serving(limited) as web:
        answered, _ = await answer_to(web, SILENT + b"rubbish\r\n\r\n")

    assert answered == b""


async def test_a_client_that_dribbles_empty_lines_is_let_go() -> None:
    async with serving(lambda: limited(HttpLimits(headers_s=SHORT_S))) as web:
        _, answered = await sent_until_closed(web, b"", b"\r\n")

    assert answered == b""


async def test_a_client_that_dribbles_the_headers_of_its_second_request_is_let_go() -> None:
    async with serving(lambda: limited(HttpLimits(headers_s=SHORT_S))) as web:
        _, answered = await sent_until_closed(web, predict_bytes(1) + b"GET / HTTP/1.1\r\nX: ", b"x")

    assert answered.startswith(b"HTTP/1.1 200 ") and answered.count(b"HTTP/1.1") == 1


async def test_a_client_that_dribbles_a_body_which_was_refused_is_let_go() -> None:
    refused = HEAD + b"Content-Length: 100000000\r\n\r\n"
    async with serving(lambda: limited(HttpLimits(headers_s=SHORT_S))) as web:
        _, answered = await sent_until_closed(web, refused, b"x")

    assert answered.startswith(b"HTTP/1.1 413 ") and answered.count(b"HTTP/1.1") == 1


async def test_a_request_for_another_protocol_is_answered_as_if_it_had_not_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(limited) as web:
        upgraded, plain = [
            await web.http.get("/health", headers=headers)
            for headers in ({"Connection": "Upgrade", "Upgrade": "websocket"}, {})
        ]

    assert (upgraded.status_code, plain.status_code) == (200, 200)
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]
