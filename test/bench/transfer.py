"""`python -m test.bench.transfer LOCATION SIZE_MIB NATS_URL`: store one artifact and fetch it, and tell what that took.

Prints one line of JSON: seconds of both, and bytes of memory at the most above those before.
"""

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from runtime.batch.artifact_stores import open_store
from runtime.bus.nats import NatsBus
from runtime.bus.object_store import ObjectStoreConfig

STREAM = "bench_v1_artifacts"
STORE = "runs"
KEY = "simulation-runs/0f/public/output/large.bin"
# What is repeated: as many bytes as are read from a file at once, which no compression makes fewer.
PIECE = b"".join(hashlib.sha256(number.to_bytes(4)).digest() for number in range(32 * 1024))


async def main(location: str, pieces: int, url: str) -> None:
    bus = await NatsBus.connect([url], name="transfer")
    await bus.ensure_object_store(ObjectStoreConfig(name=f"{STREAM}_{STORE}"))
    store = await open_store(location, bus=bus, stream=STREAM)
    digest = hashlib.sha256()
    for _ in range(pieces):
        digest.update(PIECE)
    before = _memory("VmRSS")
    begun_s = time.monotonic()
    await store.put(KEY, _pieces(pieces), size=pieces * len(PIECE), sha256=digest.hexdigest())
    stored_s = time.monotonic()
    fetched = sum([len(piece) async for piece in store.get(KEY)])
    fetched_s = time.monotonic()
    peak = _memory("VmHWM")
    await store.delete(KEY)
    await store.close()
    await bus.close()
    assert fetched == pieces * len(PIECE)
    told = {"put_s": stored_s - begun_s, "get_s": fetched_s - stored_s, "grown_bytes": peak - before}
    print(json.dumps(told))


async def _pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield PIECE


def _memory(field: str) -> int:
    """Return a field of this process's memory: what it has now, or had at the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
