"""What a person has mistyped where YAML's parser gives up, in plain words and at the place of the slip. Pure.

The parser tells where it could not go on, which is often a line after the slip, in words of its own grammar. What is
none of the usual slips keeps the parser's words.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import yaml

from runtime.spec.report import START, Fault, Place

# The parser's words for a second `key: value` where the first one has not ended.
_TWO_COLONS = "mapping values are not allowed here"
_NO_COLON = "could not find expected ':'"
_SECOND_DOCUMENT = "expected '<document start>'"
_OUT_OF_STEP = ("expected <block end>", _SECOND_DOCUMENT)

_ENTRY = re.compile(r"(?P<indent> *)(?P<dashes>(?:- +)*)(?:(?P<key>[\w.$-]+):(?= |$) *)?(?P<value>.*)")
_WITHOUT_SPACE = re.compile(r" *(?:- +)*(?P<key>[A-Za-z_][\w-]*):(?P<value>[^\s:/].*)")
_GLUED_DASH = re.compile(r" *-(?P<rest>[A-Za-z_].*)")
_QUOTED_VALUE = re.compile(r"(?:^|[-:,\[{] +)(?P<quote>[\"'])")


class _Entry(NamedTuple):
    """A line of block style. dash, column: where its (outermost) dash and its key or text begin; dash 0: none."""

    number: int
    dash: int
    column: int
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class _Stop:
    """Where the parser gave up. lines: of the file. place: there; begun: of what it was reading, START if unknown."""

    lines: list[str]
    problem: str
    context: str
    place: Place
    begun: Place

    @property
    def line(self) -> str:
        return self.lines[self.place.line - 1] if self.place.line <= len(self.lines) else ""

    def entries_above(self) -> Iterator[_Entry]:
        """Yield the lines above, the nearest first, without those that say nothing."""
        for number in range(min(self.place.line - 1, len(self.lines)), 0, -1):
            text = self.lines[number - 1]
            if text.strip() and not text.lstrip().startswith("#"):
                yield _entry(number, text)


def syntax_fault(text: str, error: yaml.MarkedYAMLError) -> Fault:
    """Return what is wrong with a text that cannot be parsed."""
    stop = _Stop(
        lines=text.splitlines(),
        problem=(error.problem or error.context or "unknown reason").rstrip("."),
        context=error.context or "",
        place=_place(error.problem_mark or error.context_mark),
        begun=_place(error.context_mark),
    )
    slips = (_tab, _open_quote, _dash_without_space, _colon_without_space, _colon_in_text, _out_of_step, _open_bracket)
    found = (fault for slip in slips if (fault := slip(stop)) is not None)
    return next(found, None) or _in_the_words_of_yaml(stop)


def _place(mark: yaml.Mark | None) -> Place:
    return Place(mark.line + 1, mark.column + 1) if mark else START


def _entry(number: int, line: str) -> _Entry:
    match = _ENTRY.match(line)
    assert match is not None, "every line matches"
    dash = match.end("indent") + 1 if match["dashes"] else 0
    return _Entry(number, dash, match.end("dashes") + 1, match["key"] or "", match["value"])


# --- the slips ---


def _tab(stop: _Stop) -> Fault | None:
    column = stop.place.column
    if stop.line[column - 1 : column] != "\t":
        return None
    indents = not stop.line[: column - 1].strip()
    remedy = "indent with spaces, two for each level" if indents else "write a space in its place"
    return _fault(stop.place, "a tab stands where YAML wants spaces", remedy)


def _open_quote(stop: _Stop) -> Fault | None:
    """A quote that nothing closes, or that is closed by the one that begins a later text."""
    if "quoted scalar" in stop.context and "end of stream" in stop.problem:
        return _never_closed(stop.begun, stop.lines[stop.begun.line - 1][stop.begun.column - 1])
    before = stop.line[: stop.place.column - 1]
    for quote in (quote for quote in "\"'" if quote in before):
        above = (number for number in range(stop.place.line - 1, 0, -1) if quote in stop.lines[number - 1])
        if (number := next(above, None)) is not None and (column := _odd_quote(stop.lines[number - 1], quote)):
            return _never_closed(Place(number, column), quote)
    return None


def _odd_quote(line: str, quote: str) -> int:
    """Return the column of a quote that begins a text and that the line does not close, 0 for none."""
    begins = [match.start("quote") for match in _QUOTED_VALUE.finditer(line) if match["quote"] == quote]
    return begins[-1] + 1 if begins and line.count(quote, begins[-1]) == 1 else 0


def _never_closed(place: Place, quote: str) -> Fault:
    return _fault(
        place, "the quote that begins here is not closed in its line", f"write {quote} at the end of the text"
    )


def _dash_without_space(stop: _Stop) -> Fault | None:
    for number in (stop.place.line, stop.place.line - 1):
        if 0 < number <= len(stop.lines) and (match := _GLUED_DASH.match(stop.lines[number - 1])):
            place = Place(number, match.start("rest"))
            return _fault(place, "the dash of a list item has no space behind it", f'write "- {match["rest"]}"')
    return None


def _colon_without_space(stop: _Stop) -> Fault | None:
    if stop.problem == _NO_COLON:
        number = stop.begun.line
    elif stop.problem.startswith((_TWO_COLONS, _SECOND_DOCUMENT)):
        number = next((entry.number for entry in stop.entries_above()), 0)
    else:
        return None
    match = _WITHOUT_SPACE.match(stop.lines[number - 1]) if number else None
    if match is None:
        return None
    what = f'the colon of "{match["key"]}" has no space behind it'
    return _fault(Place(number, match.start("key") + 1), what, f'write "{match["key"]}: {match["value"]}"')


def _colon_in_text(stop: _Stop) -> Fault | None:
    if stop.problem != _TWO_COLONS:
        return None
    entry = _entry(stop.place.line, stop.line)
    begin = len(stop.line) - len(entry.value) + 1
    if not entry.key or not begin < stop.place.column:
        return None
    quoted = entry.value.rstrip().replace("'", "''")
    what = f'the text of "{entry.key}" holds a colon with a space behind it'
    return _fault(Place(stop.place.line, begin), what, f"put it into quotes: {entry.key}: '{quoted}'")


def _out_of_step(stop: _Stop) -> Fault | None:
    """A key or a list item that does not begin where the others of its mapping or list do."""
    entry = _entry(stop.place.line, stop.line)
    if stop.problem == _TWO_COLONS:
        above = next(stop.entries_above(), None)
        if above is None or not (above.key and above.value) or (entry.dash or entry.column) <= above.column:
            return None
        if not entry.dash:
            what = f'"{entry.key}" stands below "{above.key}" of line {above.number}, which has a value already'
            return _fault(Place(entry.number, entry.column), what, _spaces(entry.column, above.column))
    elif not stop.problem.startswith(_OUT_OF_STEP):
        return None
    if entry.dash:
        dashes = [(each.dash, f"that of line {each.number}") for each in _around(stop) if each.dash]
        return _misplaced(entry.number, entry.dash, "this list item", dashes)
    keys = [(each.column, f'"{each.key}" of line {each.number}') for each in _around(stop) if each.key]
    return _misplaced(entry.number, entry.column, f'"{entry.key}"', keys) if entry.key else None


def _misplaced(line: int, column: int, what: str, others: list[tuple[int, str]]) -> Fault | None:
    """Return the fault of what begins in this column, and in that of none of the others: beside the nearest one."""
    wanted, other = min(others, key=lambda each: abs(each[0] - column), default=(column, ""))
    if wanted == column:
        return None
    told = f"{what} begins in column {column}, {other} in column {wanted}"
    return _fault(Place(line, column), told, _spaces(column, wanted))


def _around(stop: _Stop) -> Iterator[_Entry]:
    """Yield the lines above that begin something which had not ended before the line of the stop."""
    inmost = 1 << 30
    for entry in stop.entries_above():
        if (entry.dash or entry.column) < inmost:
            yield entry
            inmost = entry.dash or entry.column


def _spaces(column: int, wanted: int) -> str:
    if wanted == 1:
        return "begin it at the start of the line"
    return f"write {wanted - 1} spaces before it, not {column - 1}"


def _open_bracket(stop: _Stop) -> Fault | None:
    closing = re.match(r"expected ',' or '([]}])'", stop.problem)
    if closing is None:
        return None
    what = f'a comma or "{closing[1]}" is missing before this'
    return _fault(stop.place, what, f"look at the bracket opened at line {stop.begun.line}")


def _in_the_words_of_yaml(stop: _Stop) -> Fault:
    where = f"what begins at line {stop.begun.line}" if stop.context else "this place and the line before"
    return _fault(stop.place, f"not YAML: {stop.problem}", f"look at {where}")


def _fault(place: Place, what: str, remedy: str) -> Fault:
    return Fault(place, what, remedy, "yaml-syntax")
