"""The short way past nats-py: what it relies on, and what it writes.

When one of the first two tests fails after an update of nats-py, read `runtime/bus/direct.py` beside nats-py's
`Client._process_msg`, `_send_command`, `_flush_pending` and `Parser.parse` before changing the expectation.
"""

import asyncio
import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.protocol.parser import Parser

from runtime.bus.base import Headers
from runtime.bus.direct import MAX_BEGUN_BYTES, DirectClient, header_block, publish_command

Arrived = tuple[str, str, bytes, Headers | None]

DIRECT, OTHER = 7, 8
STATUS = b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 3\r\n\r\n"


class Reading:
    """A client that is not connected, and what its one direct subscription was handed over."""

    def __init__(self) -> None:
        self.client = DirectClient()
        self.arrived: list[Arrived] = []
        self.pings = 0
        self.client._callbacks[DIRECT] = lambda *message: self.arrived.append(message)
        self.client._process_ping = self._count_ping

    async def _count_ping(self) -> None:
        self.pings += 1

    async def read(self, *chunks: bytes) -> None:
        for chunk in chunks:
            await self.client._ps.parse(chunk)


def frame(data: bytes, reply: str = "", block: bytes = b"", sid: int = DIRECT) -> bytes:
    fields = ["HMSG" if block else "MSG", "a.b", str(sid), *([reply] if reply else [])]
    sizes = [str(len(block)), str(len(block) + len(data))] if block else [str(len(data))]
    return f"{' '.join([*fields, *sizes])}\r\n".encode() + block + data + b"\r\n"


def test_nats_py_hands_messages_to_the_method_that_we_override() -> None:
    parameters = list(inspect.signature(Client._process_msg).parameters)

    assert parameters == ["self", "sid", "subject", "reply", "data", "headers"]


def test_nats_py_takes_commands_as_bytes_and_flushes_on_request() -> None:
    assert list(inspect.signature(Client._send_command).parameters) == ["self", "cmd", "priority"]
    assert list(inspect.signature(Client._flush_pending).parameters) == ["self", "force_flush"]
    assert "_flush_queue" in vars(Client())


def test_nats_py_connects_by_the_method_that_we_override_for_websockets() -> None:
    assert list(inspect.signature(Client._connect_to_server).parameters) == ["self", "s"]
    assert "self._transport.connect" in inspect.getsource(Client._connect_to_server)


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def writelines(self, lines: list[bytes]) -> None:
        self.written.extend(lines)


async def test_a_ping_leaves_behind_the_commands_before_it() -> None:
    """A forbidden subscription was taken for granted: the answer to the ping came before the server had read it."""
    client, wire = DirectClient(), Wire()
    client._transport, client._status, client._flush_queue = wire, Client.CONNECTED, asyncio.Queue()
    client._flusher_task = asyncio.create_task(asyncio.sleep(60))

    await client._send_command(b"SUB a 1\r\n")
    await client._send_ping()

    assert wire.written == [b"SUB a 1\r\n", b"PING\r\n"]
    client._flusher_task.cancel()


def test_the_parser_that_we_replace_is_where_it_was() -> None:
    assert type(Client()._ps) is Parser
    assert list(inspect.signature(Parser.parse).parameters) == ["self", "data"]
    assert {"buf", "state", "nc"} <= vars(Parser()).keys()


@given(
    st.lists(
        st.tuples(
            st.binary(max_size=30),
            st.sampled_from(["", "in.1"]),
            st.sampled_from(["", "id", "document", "two", "status"]),
        )
    ),
    st.lists(st.integers(1, 40), min_size=1),
)
def test_messages_come_as_they_were_sent_however_the_bytes_are_cut(
    messages: list[tuple[bytes, str, str]], cuts: list[int]
) -> None:
    headers_of = {
        "": {},
        "id": {"Nats-Msg-Id": "x.1"},
        "document": {"Krt-Doc-Id": "0123456789abcdef01234567"},
        "two": {"Nats-Msg-Id": "x.1#r1", "Krt-Redrive": "1"},
    }
    blocks = {kind: header_block(headers) if headers else b"" for kind, headers in headers_of.items()}
    blocks["status"] = STATUS
    stream = b"".join(
        frame(data, reply, blocks[kind]) + b"PING\r\n" + frame(b"other", sid=OTHER) for data, reply, kind in messages
    )
    chunks, begin, turn = [], 0, 0
    while begin < len(stream):
        chunks.append(stream[begin : begin + cuts[turn % len(cuts)]])
        begin, turn = begin + len(chunks[-1]), turn + 1
    reading = Reading()

    asyncio.run(reading.read(*chunks))

    assert [message[:3] for message in reading.arrived] == [("a.b", reply, data) for data, reply, _ in messages]
    assert reading.pings == len(messages)
    for (*_, headers), (_, _, kind) in zip(reading.arrived, messages, strict=True):
        if kind == "status":
            assert headers is not None and headers["Status"] == "408"
        else:
            assert (headers or {}) == headers_of[kind]


@pytest.mark.parametrize(
    "lines",
    [b"a: b\r\n folded\r\n", b"a: b\r\na: c\r\n", b"a:b\r\n", b"a: \r\n", b"\xff: b\r\nc: d\r\n c\r\n"],
    ids=["folded", "repeated", "no-space", "empty", "no-text"],
)
async def test_headers_that_are_not_plain_are_left_to_the_client(lines: bytes) -> None:
    block = b"NATS/1.0\r\n" + lines + b"\r\n"
    reading = Reading()

    await reading.read(frame(b"data", "", block))

    [(_, _, data, headers)] = reading.arrived
    assert data == b"data" and headers is not None


async def test_a_large_message_comes_in_one_piece() -> None:
    data = bytes(range(256)) * (3 * MAX_BEGUN_BYTES // 256)
    stream = frame(b"before") + frame(data) + frame(b"after")
    reading = Reading()

    await reading.read(*(stream[begin : begin + 10_000] for begin in range(0, len(stream), 10_000)))

    assert [message[2] for message in reading.arrived] == [b"before", data, b"after"]


@pytest.mark.parametrize("first", [frame(b"other", sid=OTHER), b"PING\r\n", frame(bytes(2 * MAX_BEGUN_BYTES))])
async def test_nats_py_reads_nothing_behind_what_is_left_to_it(first: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch of ten thousand entries was read by nats-py's parser whenever an answer to a request came before it."""
    given: list[bytes] = []
    parse = Parser.parse

    async def counted(parser: Parser, data: bytes) -> None:
        given.append(data)
        await parse(parser, data)

    monkeypatch.setattr(Parser, "parse", counted)
    reading, ours = Reading(), frame(b"1") + frame(b"2")
    cuts = [len(first) * 2 // 3, len(first) + 3, len(first) + len(ours) - 5]
    stream = first + ours

    await reading.read(*(stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, None], strict=True)))

    assert b"".join(given) == first
    assert [data for *_, data, _ in reading.arrived][-2:] == [b"1", b"2"]


async def test_a_new_connection_begins_anew() -> None:
    reading = Reading()
    await reading.read(frame(b"lost in the middle")[:-5])

    reading.client._ps.reset()
    await reading.read(frame(b"new"))

    assert [message[2] for message in reading.arrived] == [b"new"]


def test_a_message_without_headers_is_a_pub() -> None:
    assert publish_command("a.b", b"hello", "", b"") == b"PUB a.b  5\r\nhello\r\n"
    assert publish_command("a.b", b"", "inbox.1", b"") == b"PUB a.b inbox.1 0\r\n\r\n"


def test_headers_are_counted_in_bytes() -> None:
    command = publish_command("a.b", b"hello", "inbox.1", header_block({"Nats-Msg-Id": "ü"}))

    block = "NATS/1.0\r\nNats-Msg-Id: ü\r\n\r\n".encode()
    assert command == b"HPUB a.b inbox.1 %d %d\r\n" % (len(block), len(block) + 5) + block + b"hello\r\n"


@pytest.mark.parametrize("value", ["one\r\nKrt-Forged: yes", "one\ntwo"])
def test_a_header_with_a_line_break_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="a header holds a line break"):
        header_block({"Nats-Msg-Id": value})


async def test_the_answer_to_a_flush_that_was_cancelled_harms_no_later_one() -> None:
    client = DirectClient()
    cancelled, waiting = asyncio.get_running_loop().create_future(), asyncio.get_running_loop().create_future()
    client._pongs = [cancelled, waiting]
    cancelled.cancel()

    await client._ps.parse(b"PONG\r\n")
    before = waiting.done()
    await client._ps.parse(b"PONG\r\n")

    assert (before, waiting.done()) == (False, True)
