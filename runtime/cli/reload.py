"""What has changed in a workflow's folder, found by looking at it twice a second."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

# Seconds between two looks; an edit is noticed at once, and a folder of a hundred files costs next to nothing.
LOOK_EVERY_S = 0.5
SUFFIXES = (".py", ".yaml", ".yml")

# (modification time in ns, size in bytes) by file.
Stamps = Mapping[Path, tuple[int, int]]


async def changes(folder: Path) -> AsyncIterator[set[Path]]:
    """Yield the files that were edited, added or removed since the last look; never an empty set."""
    before = await asyncio.to_thread(stamps, folder)
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        now = await asyncio.to_thread(stamps, folder)
        if changed := {path for path in {*before, *now} if before.get(path) != now.get(path)}:
            yield changed
        before = now


def stamps(folder: Path) -> Stamps:
    """Return what tells one state of the folder's files from another; hidden folders and caches are left out."""
    found = {}
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        for path in (Path(parent, name) for name in files if name.endswith(SUFFIXES)):
            try:
                status = path.stat()
            except FileNotFoundError:  # editors replace files
                continue
            found[path] = (status.st_mtime_ns, status.st_size)
    return found
