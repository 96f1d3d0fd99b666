"""The path of a message inside of a process, and the nodes that it has passed."""

import pytest

from runtime.spec import hops, names
from runtime.spec.hops import Hop


@pytest.mark.parametrize(
    ("message_id", "path"),
    [
        (names.message_id("score-2", 17, 0), "-0"),
        (names.message_id("b", 17, 2, redrive=1, path="-0"), "-0-2r1"),
        (names.message_id("a", 17, 0, mark="e"), "-e0"),
    ],
)
def test_a_path_is_the_place_of_an_output_behind_those_before(message_id: str, path: str) -> None:
    assert hops.path_behind(message_id) == path


def test_the_path_of_a_plain_output_is_that_of_its_id() -> None:
    for redrive in (0, 3):
        message_id = names.message_id("b", 17, 2, redrive=redrive, path="-0")

        assert hops.path_of_output("-0", 2, redrive) == hops.path_behind(message_id)


def test_a_path_tells_how_often_each_node_was_redriven() -> None:
    path = "-0r2-e0-1r1"

    assert hops.redrives(path) == [2, 0, 1]
    assert [hops.first_nodes(path, count) for count in range(4)] == ["", "-0r2", "-0r2-e0", path]


def test_a_place_is_read_as_it_was_written() -> None:
    assert hops.read_place(hops.place(17, "-0-2r1")) == (17, "-0-2r1")
    assert hops.read_place("17") == (17, "")


def test_hops_are_read_as_they_were_added() -> None:
    header = hops.add_hop(hops.add_hop("", "clean", 812), "score", 95)

    assert hops.read_hops(header) == (Hop("clean", 812), Hop("score", 95))
    assert hops.read_hops("") == ()
