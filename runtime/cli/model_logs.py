"""Logs of model hosts: a file for each model, which is rotated."""

import logging
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType

# Bytes of a log until a new one is begun, and how many older ones are kept: 40 MiB for a model at most.
MAX_LOG_BYTES = 10 * 1024 * 1024
OLDER_LOGS = 3


class ModelLogs:
    """Writes lines by model, inside a `with` block; a disk that is full costs lines and nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, RotatingFileHandler] = {}

    def __enter__(self) -> "ModelLogs":
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    def line(self, model_id: str, line: str) -> None:
        """Write a line of a model's host."""
        if model_id not in self._files:
            self._files[model_id] = RotatingFileHandler(
                self._folder / f"{model_id}.log", maxBytes=MAX_LOG_BYTES, backupCount=OLDER_LOGS, errors="replace"
            )
        # Not through a logger: these are lines of other processes, which have their own times and levels.
        self._files[model_id].emit(logging.makeLogRecord({"msg": line}))


def last_lines(log: Path, count: int) -> list[str]:
    """Return the last lines of a model, older logs included."""
    found: list[str] = []
    for file in _newest_first(log):
        # As `emit` ends them; what a model prints may hold other ends of lines.
        lines = file.read_text(errors="replace").removesuffix("\n").split("\n")
        found = [*lines[-(count - len(found)) :], *found]
        if len(found) >= count:
            break
    return found


def _newest_first(log: Path) -> Iterator[Path]:
    older = (log.with_name(f"{log.name}.{number}") for number in range(1, OLDER_LOGS + 1))
    yield from (file for file in (log, *older) if file.exists() and file.stat().st_size)
