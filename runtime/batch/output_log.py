"""What a model prints, kept in its run's folder `log`: byte by byte, and together with the time of each line."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

# The files: one for each stream as it was written, and one for both, for people.
STREAM_FILES = {"stdout": "stdout.log", "stderr": "stderr.log"}
BOTH_FILE = "runner.log"
# Bytes of a line that goes into the common file without waiting for its end.
MAX_LINE_BYTES = 64 * 1024


class OutputLog:
    """Keeps so much of each file, and counts the rest: reading goes on, so that no model is held up by its log.

    A disk that is full, or fails, is no error here: `fault` has the first one, and the file ends there.
    """

    def __init__(self, folder: Path, limit_bytes: int, time_ns: Callable[[], int] = time.time_ns) -> None:
        """limit_bytes: of each file. Raises OSError; also if a file is there, for then it is somebody else's."""
        self._time_ns = time_ns
        self._files: dict[str, _CappedFile] = {}
        self._open_lines = {stream: b"" for stream in STREAM_FILES}
        try:
            for stream, name in {**STREAM_FILES, "": BOTH_FILE}.items():
                self._files[stream] = _CappedFile(folder / name, limit_bytes)
        except OSError:
            self.close()
            raise

    @property
    def fault(self) -> OSError | None:
        """What the disk had against a write, None for nothing."""
        return next((file.fault for file in self._files.values() if file.fault), None)

    def write(self, stream: str, data: bytes) -> None:
        """Keep a piece of `stdout` or `stderr`."""
        self._files[stream].write(data)
        both = self._files[""]
        if both.is_full:
            both.left_out += len(data)
            return
        *lines, rest = (self._open_lines[stream] + data).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            lines.append(rest)
            rest = b""
        self._open_lines[stream] = rest
        for line in lines:
            self._write_line(stream, line)

    def note(self, text: str) -> None:
        """Keep a line of the runner's own in the common file."""
        self._write_line("runner", text.encode(errors="backslashreplace"))

    def close(self) -> None:
        """Write what is left, with a note where something is missing. May be called again."""
        for stream, line in self._open_lines.items():
            if line:
                self._write_line(stream, line)
        self._open_lines = {}
        for file in self._files.values():
            file.close()

    def _write_line(self, stream: str, line: bytes) -> None:
        now = datetime.fromtimestamp(self._time_ns() / 1e9, UTC)
        head = f"{now.isoformat(timespec='milliseconds').removesuffix('+00:00')}Z {stream} | "
        self._files[""].write(head.encode() + line + b"\n")


class _CappedFile:
    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.left_out = 0
        self.fault: OSError | None = None
        self._room = limit_bytes
        # Never through a link, nor into a file that the model has prepared.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o644)

    @property
    def is_full(self) -> bool:
        return self._room == 0

    def write(self, data: bytes) -> None:
        kept = data[: self._room]
        written = self._write(kept)
        self.left_out += len(data) - written
        self._room = self._room - written if written == len(kept) else 0

    def close(self) -> None:
        if self._descriptor < 0:
            return
        if self.left_out:
            why = f"; {os.strerror(self.fault.errno)}" if self.fault and self.fault.errno else ""
            self._write(f"\n[{self.left_out} bytes are left out{why}]\n".encode())
        os.close(self._descriptor)
        self._descriptor = -1

    def _write(self, data: bytes) -> int:
        """Return how many bytes the disk has taken."""
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as error:
            self.fault = self.fault or error
        return written
