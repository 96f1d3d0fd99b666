"""What only the monitoring port of a NATS server tells: how often it forces what it stores to the disk."""

import asyncio
import json
import urllib.request
from typing import Any

# Seconds for an answer of the monitoring port.
TIMEOUT_S = 2.0


async def sync_interval(url: str) -> str:
    """Return in words how often a server syncs files, from its monitoring address; why not, if it does not tell.

    Without an address it is "": no other port of a server tells.
    """
    if not url:
        return ""
    try:
        return _in_words(await asyncio.to_thread(_read, url))
    except (OSError, ValueError) as error:  # urllib's own errors are OSErrors
        return f"unknown ({url} does not tell: {getattr(error, 'reason', error)})"


def _read(url: str) -> Any:
    if not url.startswith(("http://", "https://")):
        raise ValueError("no http:// address")
    with urllib.request.urlopen(f"{url.rstrip('/')}/varz", timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def _in_words(state: Any) -> str:
    config = state.get("jetstream", {}).get("config", {}) if isinstance(state, dict) else {}
    if config.get("sync_always"):
        return "every write"
    interval_ns = config.get("sync_interval")
    return f"every {interval_ns / 1e9:g} s" if isinstance(interval_ns, int) else "unknown (no JetStream there)"
