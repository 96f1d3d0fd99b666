"""Which of two runners with different signatures of one name has to yield: both sides come to the same end."""

import itertools

import pytest

from runtime.algorithms.presence import Offered, RunnerRecord, RunnerState, conflicts, shared
from runtime.bus.presence import ServiceRecord

JOINING, SERVING, DRAINING = RunnerState


def runner(instance: str, state: RunnerState, born: int, *, replaces: bool = False, **hashes: str) -> RunnerRecord:
    algorithms = {name: Offered(each, "1.0.0", "") for name, each in (hashes or {"ocr": instance}).items()}
    return RunnerRecord(
        runner=f"runner-{instance}", instance=instance, state=state, born=born, replaces=replaces, algorithms=algorithms
    )


@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        (runner("a", SERVING, 9), runner("b", JOINING, 1)),
        (runner("a", JOINING, 1), runner("b", JOINING, 2)),
        (runner("a", SERVING, 1), runner("b", SERVING, 2)),
        (runner("a", JOINING, 9, replaces=True), runner("b", SERVING, 1)),
        (runner("a", JOINING, 9, replaces=True), runner("b", SERVING, 1, replaces=True)),
        (runner("a", SERVING, 1), runner("b", SERVING, 1)),
    ],
)
def test_exactly_one_of_two_yields(winner: RunnerRecord, loser: RunnerRecord) -> None:
    assert loser.yields_to(winner) and not winner.yields_to(loser)


def test_any_two_have_one_winner() -> None:
    kinds = itertools.product((JOINING, SERVING), (1, 2), (False, True))
    runners = [runner(str(n), state, born, replaces=replaces) for n, (state, born, replaces) in enumerate(kinds)]

    for one, other in itertools.permutations(runners, 2):
        assert one.yields_to(other) is not other.yields_to(one)


def test_only_other_signatures_of_the_same_name_conflict() -> None:
    own = runner("a", JOINING, 3, ocr="1", scale="1", own="1")
    others = [
        own,
        runner("b", SERVING, 1, ocr="2", scale="1"),
        runner("c", SERVING, 2, ocr="3"),
        runner("d", DRAINING, 1, own="2"),
    ]

    assert [(each.name, each.other.instance) for each in conflicts(own, others)] == [("ocr", "b"), ("ocr", "c")]


def test_what_is_shared_with_runners_of_other_names_is_told() -> None:
    own = runner("a", SERVING, 3, ocr="1", scale="1")

    assert shared(own, [own, runner("b", SERVING, 1, ocr="1", scale="2")]) == [("ocr", "runner-b")]


def test_a_record_survives_the_presence_bucket_and_others_are_refused() -> None:
    own = runner("a", SERVING, 3, replaces=True, ocr="1")
    record = ServiceRecord(
        kind="algorithm", name=own.runner, instance="a", version="1", host="h", pid=1, started_ms=1,
        metadata=own.metadata(),
    )  # fmt: skip

    assert RunnerRecord.of(ServiceRecord.decode(record.encode())) == own
    with pytest.raises(ValueError, match="is no runner of algorithms"):
        RunnerRecord.of(ServiceRecord.of_this_process("algorithm", "other"))
