"""Durations as people write them (`500ms`, `30s`, `2m`, `1h`, `7d`), and as servers ask for them.

A person's bare number is refused: it has no unit.
"""

import email.utils
import re
from datetime import UTC, datetime

DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
# Seconds of each unit.
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# The longest pause that a server may ask for, in seconds: InfluxDB's rate limits look at 5 minutes.
MAX_RETRY_AFTER_S = 300.0


def duration_s(text: str) -> float:
    """Return the seconds of a duration above 0. Raises ValueError with the remedy."""
    match = DURATION.fullmatch(text)
    if match is None or not int(match[1]):
        hint = f"{text}s" if text.isdecimal() and int(text) else "30s"
        raise ValueError(f'"{text}" is no duration; write a number above 0 and ms, s, m, h or d: {hint}')
    return int(match[1]) * SECONDS[match[2]]


def retry_after_s(header: str | None) -> float:
    """Return the seconds that a `Retry-After` (RFC 9110: seconds or a date) asks for; 0 without a readable one."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (email.utils.parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    # In this order, "nan" asks for nothing.
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S)
