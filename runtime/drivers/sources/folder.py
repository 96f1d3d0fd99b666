"""Source `folder`: the files of a folder as inputs, images for one; to the last one, or for ever."""

import asyncio
import fnmatch
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from runtime.drivers import records
from runtime.drivers.flow import Item, NotConnected, Seconds, Source, SourceParameters, Wait
from runtime.message import ReplyOutcome

# Name of the metadata that holds the name of an input's file: `ctx.headers["file"]` in a handler.
FILE_HEADER = "file"


class FolderParameters(SourceParameters):
    """Parameters of `folder`."""

    path: Path = Field(description="The folder.")
    pattern: str = Field("*", description="Names that are taken, such as *.png; never those that begin with a dot.")
    format: records.Format = Field(records.Format.BYTES, description="What a file is: bytes, text or json.")
    follow: bool = Field(False, description="Wait for more files at the end.")
    poll: Seconds = Field(0.5, gt=0, description="How often a followed folder is looked at.")
    resume: bool = Field(True, description="Go on behind what an earlier run has done, and do not begin anew.")
    remove: bool = Field(False, description="Delete a file once its outputs are in every sink.")


class FolderSource(Source):
    """Sends each file of a folder, in the order of names; `ctx.headers["file"]` has the name.

    A restart goes on behind the last name that is done: files that come later need later names, as those of a camera
    have. With `remove` the names may be any. A file is to be written under another name (`.frame.png`) and renamed, so
    that none is read half.
    """

    parameters = FolderParameters
    params: FolderParameters
    # Names that were yielded by this run, and the last one of an earlier run.
    _seen: set[str]
    _resumed = ""

    def resume(self, position: Any) -> None:
        if self.params.resume:
            self._resumed = position["file"]

    def open(self) -> None:
        if not hasattr(self, "_seen"):
            self._seen = set()
        if not self.params.path.is_dir():
            raise NotConnected(f"there is no folder {self.params.path}")

    async def read(self) -> AsyncIterator[Any]:
        while True:
            new = await asyncio.to_thread(self._new_names)
            for name in new:
                self._seen.add(name)
                yield await asyncio.to_thread(self._item, name)
            if not self.params.follow:
                return
            if not new:
                yield Wait(self.params.poll)

    def _new_names(self) -> list[str]:
        try:
            found = [entry.name for entry in self.params.path.iterdir() if entry.is_file() and self._takes(entry.name)]
        except OSError as error:
            raise NotConnected(f"{self.params.path}: {error.strerror}") from error
        self._seen &= set(found)  # what was removed need not be remembered
        return sorted(set(found) - self._seen)

    def _takes(self, name: str) -> bool:
        is_later = self.params.remove or name > self._resumed
        return is_later and not name.startswith(".") and fnmatch.fnmatch(name, self.params.pattern)

    def _item(self, name: str) -> Item:
        """Return the input of one file. Its position is its name, unless files are removed."""
        path = self.params.path / name
        made = partial(
            Item,
            metadata={FILE_HEADER: name},
            position={"file": name} if self.params.resume and not self.params.remove else None,
            done=partial(self._remove, path) if self.params.remove else None,
        )
        try:
            return made(records.decode(path.read_bytes(), self.params.format))
        except OSError as error:
            return made(None, fault=f"{path}: {error.strerror}")
        except ValueError as error:
            return made(None, fault=f"{path} {error}")

    async def _remove(self, path: Path, outcome: str) -> None:
        if outcome == ReplyOutcome.OK:
            await asyncio.to_thread(path.unlink, missing_ok=True)
