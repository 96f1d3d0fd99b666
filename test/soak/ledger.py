"""The books of a soak: what has to come out of each message, and what did. Pure.

Every number from 0 on is one message. It ends as one output for each part, or, when it is poison, as one ERROR and one
dead letter; some leave one document. Anything missing is lost, anything beyond is a duplicate.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from test.soak.flow.clean import DOCUMENT_EVERY, POISON_EVERY

PARTS = 2
_POISON = 7


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the final table: what was expected, what is missing and what is too much."""

    what: str
    expected: int
    lost: int
    duplicated: int

    @property
    def balances(self) -> bool:
        return self.lost == self.duplicated == 0


def is_poison(number: int) -> bool:
    return number % POISON_EVERY == _POISON


def is_document(number: int) -> bool:
    return number % DOCUMENT_EVERY == 0 and not is_poison(number)


class Ledger:
    """Counts of outputs and errors by message."""

    def __init__(self, messages: int) -> None:
        self._messages = messages
        self._outputs = bytearray(messages * PARTS)
        self._errors = bytearray(messages)
        self._sequences = bytearray()
        self.ended = 0
        poisoned = sum(map(is_poison, range(messages)))
        self.expected_ends = (messages - poisoned) * PARTS + poisoned

    def is_new(self, sequence: int) -> bool:
        """Note a stored message; False when it was counted already, because our own ack was lost."""
        if sequence >= len(self._sequences):
            self._sequences.extend(bytes(sequence + 1_000_000 - len(self._sequences)))
        if self._sequences[sequence]:
            return False
        self._sequences[sequence] = 1
        self.ended += 1
        return True

    def note_output(self, number: int, part: int) -> None:
        index = number * PARTS + part
        self._outputs[index] = min(self._outputs[index] + 1, 255)

    def note_error(self, number: int) -> None:
        self._errors[number] = min(self._errors[number] + 1, 255)

    def outputs(self) -> Line:
        wanted = (not is_poison(index // PARTS) for index in range(len(self._outputs)))
        return _line("outputs", wanted, self._outputs)

    def errors(self) -> Line:
        return _line("errors", map(is_poison, range(self._messages)), self._errors)

    def documents(self, numbers: Iterable[int]) -> Line:
        """numbers: those of the documents that were found, as often as they were."""
        return _line("documents", map(is_document, range(self._messages)), _counts(numbers, self._messages))

    def dead_letters(self, numbers: Iterable[int]) -> Line:
        """numbers: those of the dead letters that were found, as often as they were."""
        return _line("dead letters", map(is_poison, range(self._messages)), _counts(numbers, self._messages))


def _counts(numbers: Iterable[int], messages: int) -> list[int]:
    counted = Counter(numbers)
    return [counted[number] for number in range(messages)]


def _line(what: str, wanted: Iterable[bool], found: Iterable[int]) -> Line:
    expected = lost = duplicated = 0
    for one, count in zip(wanted, found, strict=True):
        expected += one
        lost += max(one - count, 0)
        duplicated += max(count - one, 0)
    return Line(what, expected, lost, duplicated)
