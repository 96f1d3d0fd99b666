"""Text of a workflow file -> a tree of values that know their place. Nothing is converted: a value keeps its text.

The tree is built from the parser's events in a loop, because PyYAML's own composer recurses (a file of brackets would
end in RecursionError) and knows neither duplicate keys nor the size that aliases expand to.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Table
from dataclasses import dataclass, field

import yaml

from runtime.spec.report import START, Fault, Place, Report
from runtime.spec.syntax import syntax_fault

# Characters and values that a file may have once its aliases are expanded: far above any real file, below any harm.
MAX_SIZE = 1024 * 1024
# Brackets within brackets: a workflow needs six, the rest is for the values of `config`.
MAX_DEPTH = 50

MERGE_KEY = "<<"
# Characters of a value that a problem quotes.
SHOWN_LENGTH = 40


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Text:
    """A scalar. `plain`: it was written without quotes."""

    place: Place
    text: str
    plain: bool = True

    @property
    def size(self) -> int:
        return 1 + len(self.text)

    def __str__(self) -> str:
        if not self.text:
            return "empty"
        return repr(self.text if len(self.text) <= SHOWN_LENGTH else f"{self.text[:SHOWN_LENGTH]}…")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Items:
    """A list."""

    place: Place
    items: tuple["Value", ...]
    size: int

    def __str__(self) -> str:
        return "a list"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Entry:
    """A key and its value."""

    key: Text
    value: "Value"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Mapping:
    """A mapping; its keys are texts and differ from one another."""

    place: Place
    entries: tuple[Entry, ...]
    size: int

    def get(self, key: str) -> "Value | None":
        """Return the value of a key, or None."""
        return next((entry.value for entry in self.entries if entry.key.text == key), None)

    def __str__(self) -> str:
        return "a mapping"


Value = Text | Items | Mapping


def new_text(place: Place, text: str) -> Text:
    """Return a text that the file does not have itself, at a place that it has."""
    return Text(place=place, text=text)


def new_items(place: Place, values: Sequence[Value]) -> Items:
    """Return a list of these values."""
    return Items(place=place, items=tuple(values), size=1 + sum(value.size for value in values))


def new_mapping(place: Place, parts: Table[str, Value]) -> Mapping:
    """Return a mapping of these values; each key stands where its value does."""
    entries = tuple(Entry(key=new_text(value.place, key), value=value) for key, value in parts.items())
    return Mapping(place=place, entries=entries, size=1 + sum(entry.key.size + entry.value.size for entry in entries))


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not been read; a mapping's children are key, value, key, value…"""

    place: Place
    is_mapping: bool
    anchor: str | None
    children: list[Value] = field(default_factory=list)


def parse(data: bytes, report: Report, *, least: str = 'write at least "name" and "nodes"') -> Value | None:
    """Return the one document of a file, or None where it cannot be read; faults go to the report.

    least: what to do about an empty file.
    """
    with report.collecting():
        root = _Builder(report).build(_decode(data))
        if root is None:
            raise Fault(START, "the file is empty", least, "empty-file")
        return root
    return None


def _decode(data: bytes) -> str:
    if len(data) > MAX_SIZE:
        raise too_large(START)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        column = err.start - (data.rfind(b"\n", 0, err.start) + 1) + 1
        what = f"byte 0x{data[err.start]:02x} is not UTF-8"
        raise Fault(Place(line, column), what, "save the file as UTF-8", "encoding") from err
    return text


class _Builder:
    """Builds one tree; `_open` are the collections around the current event."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._open: list[_Open] = []
        self._anchors: dict[str, Value] = {}
        self._size = 0
        self._root: Value | None = None

    def build(self, text: str) -> Value | None:
        for event in _events(text):
            if isinstance(event, yaml.DocumentStartEvent) and self._root is not None:
                raise Fault(_place(event), "a second document begins here", "keep one", "yaml-syntax")
            if isinstance(event, yaml.NodeEvent):
                self._begin(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._end(self._open.pop())
        return self._root

    def _begin(self, event: yaml.NodeEvent) -> None:
        place = _place(event)
        if isinstance(event, yaml.AliasEvent):
            self._add(self._anchored(event.anchor, place), place)
            return
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            what = f'the tag "{tag}" asks for a type'
            self._report.add(Fault(place, what, "remove it: the key says which type its value has", "yaml-tag"))
        if isinstance(event, yaml.ScalarEvent):
            text = Text(place=place, text=_text(event, place), plain=event.style is None)
            self._remember(event.anchor, text)
            self._add(text, place)
            return
        if len(self._open) >= MAX_DEPTH:
            what = f"this is nested more than {MAX_DEPTH} levels deep"
            raise Fault(place, what, "take brackets away, or keep such values in a file of their own", "too-deep")
        self._open.append(_Open(place, isinstance(event, yaml.MappingStartEvent), event.anchor))

    def _end(self, done: _Open) -> None:
        size = 1 + sum(child.size for child in done.children)
        value: Value
        if done.is_mapping:
            value = Mapping(place=done.place, entries=tuple(self._entries(done.children)), size=size)
        else:
            value = Items(place=done.place, items=tuple(done.children), size=size)
        self._remember(done.anchor, value)
        # The children have been counted when they were added.
        self._size -= size - 1
        self._add(value, done.place)

    def _add(self, value: Value, place: Place) -> None:
        self._size += value.size
        if self._size > MAX_SIZE:
            raise too_large(place)
        if self._open:
            self._open[-1].children.append(value)
        else:
            self._root = value

    def _remember(self, anchor: str | None, value: Value) -> None:
        if anchor is not None:
            self._anchors[anchor] = value

    def _anchored(self, anchor: str | None, place: Place) -> Value:
        value = self._anchors.get(anchor or "")
        if value is None:
            what = f'not YAML: "*{anchor}" stands before the end of any "&{anchor}"'
            raise Fault(place, what, "anchor a value further up", "yaml-syntax")
        return value

    def _entries(self, children: list[Value]) -> list[Entry]:
        entries: dict[str, Entry] = {}
        for key, value in zip(children[::2], children[1::2], strict=True):
            with self._report.collecting():
                name = _key(key, entries)
                entries[name.text] = Entry(key=name, value=value)
        return list(entries.values())


def _key(value: Value, entries: dict[str, Entry]) -> Text:
    if not isinstance(value, Text):
        raise Fault(value.place, f"{value} stands where a key is expected", "write a name as the key", "yaml-syntax")
    if value.text == MERGE_KEY and value.plain:
        remedy = 'put what the nodes share under "defaults"'
        raise Fault(value.place, '"<<" merges keys, which hides where a value comes from', remedy, "merge-key")
    if first := entries.get(value.text):
        what = f'"{value.text}" is given twice, first at line {first.key.place.line}'
        raise Fault(value.place, what, "keep one", "duplicate-key")
    return value


def _events(text: str) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as err:
        raise syntax_fault(text, err) from err
    except yaml.reader.ReaderError as err:
        what = f"not YAML: the character U+{ord(text[err.position]):04X} is not allowed"
        raise Fault(_place_of_index(text, err.position), what, "remove it", "yaml-syntax") from err
    except (ValueError, OverflowError) as err:
        # PyYAML 6 turns "\UFFFFFFFF" and an endless %YAML version into Python's own errors, without a place.
        raise Fault(START, f"not YAML: {err}", "look for an escape or a version out of range", "yaml-syntax") from err


def _text(event: yaml.ScalarEvent, place: Place) -> str:
    try:
        event.value.encode()
    except UnicodeEncodeError as err:
        remedy = "write the character itself in place of its escapes"
        raise Fault(place, "not YAML: the text holds half a character", remedy, "yaml-syntax") from err
    return str(event.value)


def _place(event: yaml.Event) -> Place:
    mark = event.start_mark
    assert mark is not None
    return Place(mark.line + 1, mark.column + 1)


def _place_of_index(text: str, index: int) -> Place:
    return Place(text.count("\n", 0, index) + 1, index - (text.rfind("\n", 0, index) + 1) + 1)


def too_large(place: Place) -> Fault:
    """Return the fault of a file beyond the limit."""
    what = f"the file is larger than {MAX_SIZE // 1024**2} MiB, with its aliases expanded"
    return Fault(place, what, "keep large values in files of their own", "too-large")
