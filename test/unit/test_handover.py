"""Bytes handed over in memory, between the two ends of a pair in one process."""

import gc
import os
import socket
from collections.abc import Iterator

import pytest

from runtime.handover import SHARED_FROM_BYTES, Handover

LARGE = os.urandom(SHARED_FROM_BYTES)


@pytest.fixture
def ends() -> Iterator[tuple[Handover, Handover]]:
    ours, theirs = Handover.pair()
    other = Handover(theirs)
    yield ours, other
    ours.close()
    other.close()


def test_what_is_offered_is_taken_in_any_order(ends: tuple[Handover, Handover]) -> None:
    first, second = ends[0].offer([LARGE]), ends[0].offer([b"head", memoryview(LARGE)])

    assert bytes(ends[1].take(second)) == b"head" + LARGE
    assert bytes(ends[1].take(first)) == LARGE


def test_both_ends_offer(ends: tuple[Handover, Handover]) -> None:
    token = ends[1].offer([LARGE])

    assert ends[0].take(token).startswith(LARGE[:10])


def test_a_few_bytes_are_sent_some_other_way(ends: tuple[Handover, Handover]) -> None:
    assert ends[0].offer([LARGE[1:]]) == 0


def test_what_was_taken_is_never_overwritten(ends: tuple[Handover, Handover]) -> None:
    taken = ends[1].take(ends[0].offer([LARGE]))

    ends[1].take(ends[0].offer([bytes(len(LARGE))]))

    assert bytes(taken) == LARGE
    with pytest.raises(TypeError):
        taken[0] = 1


def test_a_token_is_good_once(ends: tuple[Handover, Handover]) -> None:
    token = ends[0].offer([LARGE])
    ends[1].take(token)

    with pytest.raises(OSError):
        ends[1].take(token)


def test_an_end_whose_other_one_takes_nothing_offers_no_more(ends: tuple[Handover, Handover]) -> None:
    tokens = [ends[0].offer([LARGE]) for _ in range(2_000)]

    assert tokens[0] == 1
    assert tokens[-1] == 0
    assert bytes(ends[1].take(tokens[0])) == LARGE


def test_an_end_whose_other_one_is_gone_offers_nothing() -> None:
    ours, theirs = Handover.pair()
    theirs.close()

    assert ours.offer([LARGE]) == 0
    ours.close()


def test_nothing_stays_open(ends: tuple[Handover, Handover]) -> None:
    gc.collect()  # what other tests have left goes now, not between the two looks
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(20):
        ends[1].take(ends[0].offer([LARGE]))
    gc.collect()

    assert len(os.listdir("/proc/self/fd")) == before


def test_a_socket_without_a_descriptor_is_an_end() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    end = Handover(theirs)

    with pytest.raises(ConnectionResetError):
        end.take(1)
    end.close()
