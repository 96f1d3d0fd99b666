"""What one more part makes of the sets of a key: pure decisions."""

import pytest

from runtime.errors import DecodeError
from runtime.node import part_set
from runtime.node.part_set import MAX_REMEMBERED, End, Kept, Part, PartSet, Rules

SECOND_NS = 10**9


def rules(*, partial: bool = False, is_unique: bool = True) -> Rules:
    return Rules(names=frozenset("ab"), timeout_ns=5 * SECOND_NS, partial=partial, is_unique=is_unique)


def part(name: str, identity: str = "", at_s: int = 0, *, redriven: bool = False) -> Part:
    return Part(name, identity or f"{name}1", b"data", at_s * SECOND_NS, redriven)


def after(join: Rules, *parts: tuple[Part, int]) -> tuple[tuple[PartSet, ...], PartSet]:
    """Return the sets, and the last part's own, after parts that came at the given seconds."""
    sets: tuple[PartSet, ...] = ()
    for each, now_s in parts:
        sets, mine = join.add(sets, each, now_s * SECOND_NS)
    return sets, mine


def test_the_first_part_opens_a_set_and_the_last_one_closes_it() -> None:
    sets, waiting = after(rules(), (part("a", at_s=1), 1))
    sets, complete = rules().add(sets, part("b"), 2 * SECOND_NS)

    assert (waiting.opener, waiting.opened_ns, waiting.end) == ("a1", SECOND_NS, End.NONE)
    assert (complete.closer, complete.end, complete.is_done) == ("b1", End.COMPLETE, False)
    assert complete.parts == {"a": Kept("a1", b"data"), "b": Kept("b1", b"data")}
    assert sets == (complete,)


def test_a_part_that_comes_again_changes_nothing() -> None:
    sets, waiting = after(rules(), (part("a"), 0))

    assert rules().add(sets, part("a"), 4 * SECOND_NS) == (sets, waiting)


def test_of_two_messages_for_one_part_the_first_counts() -> None:
    sets, waiting = after(rules(), (part("a"), 0))

    assert rules().add(sets, part("a", "a2"), SECOND_NS) == (sets, waiting)


def test_the_opener_ends_a_set_whose_time_is_over_and_no_other_part_does() -> None:
    three = Rules(names=frozenset("abc"), timeout_ns=5 * SECOND_NS, partial=False, is_unique=True)
    sets, _ = after(three, (part("a"), 0), (part("b"), 1))

    assert three.add(sets, part("b"), 9 * SECOND_NS)[1].end is End.NONE
    assert three.add(sets, part("a"), 5 * SECOND_NS - 1)[1].end is End.NONE
    ended = three.add(sets, part("a"), 5 * SECOND_NS)[1]
    assert (ended.end, ended.closer) == (End.TIMEOUT, "a1")


def test_a_late_part_is_kept_for_a_redrive_of_the_set_but_not_for_a_partial_one() -> None:
    late = after(rules(), (part("a"), 0), (part("a"), 5), (part("b"), 6))[1]
    partial = after(rules(partial=True), (part("a"), 0), (part("a"), 5), (part("b"), 6))[1]

    assert (late.end, late.closer, sorted(late.parts)) == (End.TIMEOUT, "a1", ["a", "b"])
    assert (partial.end, sorted(partial.parts)) == (End.TIMEOUT, ["a"])


def test_a_redriven_set_is_complete_with_what_came_late_or_waits_for_its_whole_time_again() -> None:
    ended = ((part("a"), 0), (part("a"), 5))
    again = part("a", at_s=20, redriven=True)

    complete = after(rules(), *ended, (part("b"), 6), (again, 20))[1]
    waiting = after(rules(), *ended, (again, 20))[1]
    over = after(rules(), *ended, (again, 20), (again, 25))[1]
    still_over = after(rules(), *ended, (again, 20), (again, 25), (again, 26))[1]

    assert (complete.end, complete.closer) == (End.COMPLETE, "a1")
    assert (waiting.end, waiting.opener, waiting.opened_ns) == (End.NONE, "a1", 20 * SECOND_NS)
    assert over.end is still_over.end is End.TIMEOUT


def test_a_handled_set_is_known_without_its_data() -> None:
    complete = after(rules(), (part("a"), 0), (part("b"), 0))[1]
    done = complete.finished()

    assert done.parts == {"a": Kept("a1", b""), "b": Kept("b1", b"")}
    for late in (part("a"), part("b"), part("a", "a2")):
        assert rules().add((done,), late, 0) == ((done,), done)


def test_a_key_that_comes_again_begins_a_set_of_its_own() -> None:
    join = rules(is_unique=False)
    sets, second = after(join, (part("a"), 0), (part("b"), 0), (part("b", "b2"), 1))

    assert len(sets) == 2
    assert (sets[0].end, sets[0].is_done) == (End.COMPLETE, False)
    assert (second.end, second.opener) == (End.NONE, "b2")
    assert join.add(sets, part("a"), 0)[1] is sets[0]


def test_parts_of_a_key_that_comes_again_are_paired_in_their_order() -> None:
    sets, last = after(
        rules(is_unique=False), (part("a"), 0), (part("a", "a2"), 0), (part("b"), 0), (part("b", "b2"), 0)
    )

    assert [sorted(kept.identity for kept in each.parts.values()) for each in sets] == [["a1", "b1"], ["a2", "b2"]]
    assert last is sets[1]


def test_the_oldest_handled_sets_are_forgotten_first() -> None:
    join = rules(is_unique=False)
    sets: tuple[PartSet, ...] = ()
    for number in range(MAX_REMEMBERED + 2):
        sets, opened = join.add(sets, part("a", f"a{number}"), 0)
        if number in (1, 2):
            sets = tuple(each.finished() if each is opened else each for each in sets)

    assert [each.opener for each in sets] == [
        f"a{number}" for number in range(MAX_REMEMBERED + 2) if number not in (1, 2)
    ]


def test_an_error_ends_a_set_that_waits_or_has_not_begun_and_no_ended_one() -> None:
    waiting, _ = after(rules(), (part("a"), 0))
    ended, _ = after(rules(), (part("a"), 0), (part("b"), 0))

    [failed] = rules().give_up(waiting, part("b"))
    [unbegun] = rules().give_up((), part("b"))

    assert (failed.end, failed.is_done, failed.holds("a1")) == (End.ERROR, True, True)
    assert rules().add((failed,), part("a"), 9 * SECOND_NS) == ((failed,), failed)
    assert (unbegun.end, rules().add((unbegun,), part("a"), 0)[1]) == (End.ERROR, unbegun)
    assert rules().give_up(ended, part("b", "b2")) == ended


def test_sets_survive_their_form() -> None:
    sets, _ = after(rules(is_unique=False), (part("a"), 0), (part("b"), 0), (part("a", "a2"), 0))

    assert part_set.decode(part_set.encode(sets)) == sets


@pytest.mark.parametrize("data", [b"", b"{}1", b'[{"opener": 1}]', b"\x1f\x8bno"])
def test_what_is_no_set_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        part_set.decode(data)
