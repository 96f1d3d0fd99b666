"""Times, spans and sizes as short text for people."""

from datetime import UTC, datetime

# From how many seconds on a span is told in the next larger unit.
_UNITS = ((172_800.0, 86_400.0, "d"), (7_200.0, 3_600.0, "h"), (120.0, 60.0, "m"), (10.0, 1.0, "s"))


def iso(time_ns: int) -> str:
    """Return a unix time in nanoseconds as UTC text with milliseconds."""
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment(time_ns: int, now_ns: int) -> str:
    return f"{iso(time_ns)} ({span((now_ns - time_ns) / 1e9)} ago)"


def span(seconds: float) -> str:
    """Return a span of time in one unit: `3d`, `5h`, `2m`, `17s`, `1.3s`, `420ms`, `63µs`."""
    for least_s, unit_s, letter in _UNITS:
        if seconds >= least_s:
            return f"{seconds / unit_s:.0f}{letter}"
    if seconds >= 1:
        return f"{seconds:.1f}s"
    return f"{seconds * 1e3:.0f}ms" if seconds >= 0.01 else f"{max(seconds, 0.0) * 1e6:.0f}µs"


def size(size_bytes: int) -> str:
    """Return a size in the unit that leaves a short number."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    if size_bytes < 1024 * 1024:
        return f"{size_bytes / 1024:.1f} KiB"
    return f"{size_bytes / 1024 / 1024:.1f} MiB"
