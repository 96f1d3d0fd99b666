"""The short way past nats-py: what it relies on, and what it writes.

When one of the first two tests fails after an update of nats-py, read `runtime/bus/direct.py` beside nats-py's
`Client._process_msg`, `_send_command` and `_flush_pending` before changing the expectation.
"""

import inspect

import pytest
from nats.aio.client import Client

from runtime.bus.direct import header_block, publish_command


def test_nats_py_hands_messages_to_the_method_that_we_override() -> None:
    parameters = list(inspect.signature(Client._process_msg).parameters)

    assert parameters == ["self", "sid", "subject", "reply", "data", "headers"]


def test_nats_py_takes_commands_as_bytes_and_flushes_on_request() -> None:
    assert list(inspect.signature(Client._send_command).parameters) == ["self", "cmd", "priority"]
    assert list(inspect.signature(Client._flush_pending).parameters) == ["self", "force_flush"]
    assert "_flush_queue" in vars(Client())


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
