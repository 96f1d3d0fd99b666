"""The soak's books: they find what is lost and what is there twice."""

from test.soak.ledger import Ledger, Line

MESSAGES = 50
POISON = 7


def fill(ledger: Ledger) -> None:
    """Note what a workflow without a fault gives."""
    for number in range(MESSAGES):
        if number == POISON:
            ledger.note_error(number)
        else:
            ledger.note_output(number, 0)
            ledger.note_output(number, 1)


def test_a_workflow_without_a_fault_balances() -> None:
    ledger = Ledger(MESSAGES)

    fill(ledger)

    assert ledger.outputs() == Line("outputs", 98, lost=0, duplicated=0)
    assert ledger.errors() == Line("errors", 1, lost=0, duplicated=0)
    assert ledger.documents([0, 20, 40]) == Line("documents", 3, lost=0, duplicated=0)
    assert ledger.dead_letters([POISON]) == Line("dead letters", 1, lost=0, duplicated=0)


def test_what_is_missing_and_what_is_too_much_is_counted_apart() -> None:
    ledger = Ledger(MESSAGES)
    fill(ledger)

    ledger.note_output(3, 1)
    ledger.note_output(POISON, 0)
    ledger.note_error(4)

    assert ledger.outputs() == Line("outputs", 98, lost=0, duplicated=2)
    assert ledger.errors() == Line("errors", 1, lost=0, duplicated=1)
    assert ledger.documents([0, 0, 40]) == Line("documents", 3, lost=1, duplicated=1)
    assert ledger.dead_letters([]) == Line("dead letters", 1, lost=1, duplicated=0)


def test_a_message_that_is_read_again_is_counted_once() -> None:
    ledger = Ledger(MESSAGES)

    assert [ledger.is_new(sequence) for sequence in (5, 9, 5)] == [True, True, False]
    assert ledger.ended == 2
