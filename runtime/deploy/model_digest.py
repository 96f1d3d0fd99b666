"""What a model host would start, as one digest: code, resources, and the hardware that it would run on.

Names and infos of a model are no part of it. Files are read once, and again when their time or size has changed.
"""

import hashlib
import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path

from runtime.spec.models_file import DesiredModel

# Hex digits of a digest.
DIGITS = 16
# Where the driver of NVIDIA's cards describes each of them.
GPUS = Path("/proc/driver/nvidia/gpus")

# (modification time in ns, size in bytes) of a file.
Stamp = tuple[int, int]


class ModelDigests:
    """Makes digests, and remembers those of files. Blocks while it reads: not for the event loop."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Stamp, str]] = {}
        self._hardware = hardware()

    def of(self, model: DesiredModel) -> str:
        """Return the digest of a model as its folders are now. Raises OSError for a file that cannot be read."""
        code = [f"code/{line}" for line in self._lines(model.code)]
        resources = [f"resources/{line}" for line in self._lines(model.resources)] if model.resources else []
        return _digest([*code, *resources, model.class_name, str(model.memory_bytes or ""), self._hardware])

    def _lines(self, folder: Path) -> Iterator[str]:
        """Yield the path and the digest of every file, in an order that does not depend on the file system."""
        for path in sorted(_files(folder)):
            yield f"{path.relative_to(folder).as_posix()} {self._file(path)}"

    def _file(self, path: Path) -> str:
        status = path.stat()
        stamp = status.st_mtime_ns, status.st_size
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            with path.open("rb") as opened:
                known = stamp, hashlib.file_digest(opened, "sha256").hexdigest()
            self._known[path] = known
        return known[1]


def hardware() -> str:
    """Return what a model may depend on of this machine: its architecture, cores, and graphics cards."""
    cards = sorted(_model_of_card(path) for path in GPUS.glob("*/information"))
    return " ".join([platform.machine(), f"{os.cpu_count()} cores", *cards])


def _model_of_card(information: Path) -> str:
    lines = information.read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model:")), "unknown card")


def _files(folder: Path) -> Iterator[Path]:
    """Yield the regular files below a folder; hidden ones and caches are none of the model."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        yield from (path for name in files if not name.startswith(".") and (path := Path(parent, name)).is_file())


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:DIGITS]
