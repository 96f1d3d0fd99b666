"""Values -> YAML, for the files that `krt` writes."""

from collections.abc import Mapping
from typing import Any

import yaml

# Characters of a line before text is folded, where it can be.
LINE_LENGTH = 120


def yaml_text(document: Mapping[str, Any]) -> str:
    """Return a document of plain dicts, lists and scalars as YAML; the order of keys is kept."""
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=LINE_LENGTH)
    return text
