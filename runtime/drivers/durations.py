"""Seconds and bytes as people write them: `2.5`, `"500ms"`, `"60s"`; `16777216`, `"16Mi"`."""

import math
import re
from typing import Any

from runtime.spec.values import BYTES, SECONDS

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)?")
_SIZE = re.compile(r"([0-9]{1,12})(Ki|Mi|Gi)?")


def read_seconds(value: Any) -> float:
    """Return a time in seconds: a number, or a number with a unit. Raises ValueError."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return float(match[1]) * SECONDS.get(match[2], 1.0)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ValueError(f"{value!r} is no time; give seconds, or a number with ms, s, m, h or d: 500ms")


def read_bytes(value: Any) -> int:
    """Return a size in bytes: a whole number, or one with a unit. Raises ValueError."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        return int(match[1]) * BYTES.get(match[2], 1)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"{value!r} is no size; give bytes, or a whole number with Ki, Mi or Gi: 16Mi")
