"""Values -> YAML, for the files that `krt` writes."""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from runtime.spec.tree import Items, Text, Value

# Characters of a line before text is folded, where it can be.
LINE_LENGTH = 120


def yaml_text(document: Mapping[str, Any]) -> str:
    """Return a document of plain dicts, lists and scalars as YAML; the order of keys is kept."""
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=LINE_LENGTH)
    return text


def yaml_documents(documents: Iterable[Mapping[str, Any]]) -> str:
    """Return several documents as one text, each begun by `---`."""
    text: str = yaml.dump_all(
        documents, Dumper=_WithoutAnchors, explicit_start=True, sort_keys=False, allow_unicode=True, width=LINE_LENGTH
    )
    return text


class _WithoutAnchors(yaml.SafeDumper):
    """Writes out what occurs twice: an anchor is valid, but nobody wants to read one."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def plain(value: Value) -> Any:
    """Return a tree as dicts, lists, texts and whole numbers, which `yaml_text` writes as people would."""
    if isinstance(value, Text):
        return int(value.text) if value.plain and _is_number(value.text) else value.text
    if isinstance(value, Items):
        return [plain(item) for item in value.items]
    return {entry.key.text: plain(entry.value) for entry in value.entries}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and str(int(text)) == text
