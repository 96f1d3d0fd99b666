"""Patterns of paths and images: `*` is any part of one step, `**` any number of steps."""

import functools
import re


def matches(pattern: str, text: str) -> bool:
    """Say whether the whole text is as the pattern says; every other character stands for itself."""
    return _compiled(pattern).fullmatch(text) is not None


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*)", pattern)
    forms = {"**": ".*", "*": "[^/]*"}
    # A name may hold a newline.
    return re.compile("".join(forms.get(part, re.escape(part)) for part in parts), re.DOTALL)
