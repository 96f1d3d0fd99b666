"""The header of a dead letter: everything about the end of a message, in the room that there is."""

from dataclasses import replace

import pytest

from runtime.deadletter import (
    MAX_ATTEMPTS,
    MAX_ERROR_BYTES,
    MAX_TRACEBACK_BYTES,
    Attempt,
    DeadLetter,
    attempts_from_header,
    attempts_to_header,
)
from runtime.wire import HEADER_ROOM_BYTES

# What the version line, the id of a dead letter and the header's own name take of the room, generously.
OTHER_HEADERS_BYTES = 150

LETTER = DeadLetter(
    node="work", reason="failed", error="ValueError: wrong", traceback="Traceback …\nValueError: wrong\n",
    request_id="0123456789abcdef" * 2, stream="prod_v1_greeter", subject="prod_v1_greeter.entrypoint", sequence=17,
    stored_ns=1_700_000_000_000_000_000, handler_version="63a1f5",
    attempts=(Attempt(attempt=1, time_s=1.5, error="ValueError: wrong"),), headers={"Nats-Msg-Id": "in.17"},
)  # fmt: skip


def test_a_letter_comes_back_as_it_was() -> None:
    header = LETTER.to_header(100_000)

    assert DeadLetter.from_header(header) == LETTER
    assert header.isascii()
    assert "\n" not in header


def test_long_texts_are_cut_where_they_say_least() -> None:
    letter = replace(LETTER, error="begin" + "x" * 10_000, traceback="y" * 100_000 + "the end")

    kept = DeadLetter.from_header(letter.to_header(1_000_000))

    assert (len(kept.error), len(kept.traceback)) == (MAX_ERROR_BYTES, MAX_TRACEBACK_BYTES)
    assert kept.error.startswith("begin")
    assert kept.traceback.endswith("the end")


@pytest.mark.parametrize(
    ("room_bytes", "lost"),
    [
        (5_000, {"traceback": ""}),
        (2_000, {"traceback": "", "attempts": ()}),
        (1_000, {"traceback": "", "attempts": (), "headers": {}}),
    ],
)
def test_what_does_not_fit_goes_in_the_order_of_its_use(room_bytes: int, lost: dict[str, object]) -> None:
    attempts = tuple(Attempt(attempt=number, time_s=1.0, error="x" * 100) for number in range(20))
    letter = replace(LETTER, traceback="z" * 10_000, attempts=attempts, headers={"long": "h" * 1_000})

    header = letter.to_header(room_bytes)

    assert len(header) <= room_bytes
    assert DeadLetter.from_header(header) == replace(letter, **lost)  # type: ignore[arg-type]  # fields of its own


def test_the_smallest_letter_fits_into_the_room_that_every_message_leaves() -> None:
    name = "n" * 40
    letter = replace(
        LETTER, node=name, stream="_".join([name] * 3), subject="_".join([name] * 3) + f".{name}.{name}",
        error="\x00" * 10_000, traceback="é" * 100_000, headers={"x": "y" * 5_000},
    )  # fmt: skip

    assert len(letter.to_header(0)) <= HEADER_ROOM_BYTES - OTHER_HEADERS_BYTES


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"attempts": [1]}', '{"attempts": [], "node": "x"}'])
def test_anything_else_is_no_letter(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        DeadLetter.from_header(text)


def test_the_latest_attempts_that_fit_travel_with_a_redriven_message() -> None:
    attempts = tuple(Attempt(attempt=number, time_s=1.5, error="x" * 50, redrive=1) for number in range(100))

    header = attempts_to_header(attempts, 1_000)

    assert len(header) <= 1_000
    assert attempts_from_header(header) == attempts[-len(attempts_from_header(header)) :]
    assert len(attempts_from_header(header)) == 9
    assert attempts_from_header(attempts_to_header(attempts, 100_000)) == attempts[-MAX_ATTEMPTS:]
    assert attempts_to_header(attempts, 50) == ""


@pytest.mark.parametrize("text", ["", "{", "5", "[1]", '[{"attempt": 1}]'])
def test_a_broken_history_is_none(text: str) -> None:
    assert attempts_from_header(text) == ()
