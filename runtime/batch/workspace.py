"""The folders of one run: made before it, removed after it, with nothing of another run in them."""

import logging
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

INPUT_FILE = "inputFile.json"


@dataclass(frozen=True, slots=True)
class Workspace:
    """`<work>/<run id>`, which holds what its properties say. Its methods block: they are for a thread."""

    root: Path

    @property
    def input(self) -> Path:
        return self.root / "input"

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def metadata(self) -> Path:
        return self.root / "metadata.json"

    def make(self, configuration: bytes, *, shared: bool) -> None:
        """Make it anew, with the configuration as `input/inputFile.json`. shared: for a model of another user.

        Raises OSError.
        """
        self.remove()
        # Nobody else may look in: a container gets the folders themselves.
        self.root.mkdir(parents=True, mode=0o700)
        for folder in (self.input, self.output, self.log):
            folder.mkdir()
            folder.chmod(0o777 if shared else 0o755)
        (self.input / INPUT_FILE).write_bytes(configuration)

    def remove(self) -> None:
        """Remove it with everything in it, links themselves and not what they lead to; what stays is logged."""
        if not self.root.exists():
            return
        try:
            shutil.rmtree(self.root, onerror=_remove_harder)
        except RecursionError:  # a model may nest folders deeper than Python calls
            subprocess.run(["rm", "-rf", "--", self.root], check=False)
        if self.root.exists():
            log.warning("%s cannot be removed; remove it by hand", self.root, extra={"action": "leftover"})


def _remove_harder(remove: Callable[..., Any], path: str, _: object) -> None:
    """Try again with a folder that a model has made unwritable."""
    parent = os.path.dirname(path)
    try:
        for folder in (parent, path):
            if stat.S_ISDIR(os.lstat(folder).st_mode):
                os.chmod(folder, 0o700)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
    except OSError as error:
        log.debug("%s is not removed: %s", path, error)
