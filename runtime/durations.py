"""Durations as people write them: `500ms`, `30s`, `2m`, `1h`, `7d`. A bare number is refused: it has no unit."""

import re

DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
# Seconds of each unit.
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration_s(text: str) -> float:
    """Return the seconds of a duration above 0. Raises ValueError with the remedy."""
    match = DURATION.fullmatch(text)
    if match is None or not int(match[1]):
        hint = f"{text}s" if text.isdecimal() and int(text) else "30s"
        raise ValueError(f'"{text}" is no duration; write a number above 0 and ms, s, m, h or d: {hint}')
    return int(match[1]) * SECONDS[match[2]]
