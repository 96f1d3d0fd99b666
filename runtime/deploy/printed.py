"""What a process prints over its starts: its last error, and its lines, of failures that are the same the first."""

import re
from collections.abc import Callable

from runtime import log as logs

# A time in a line of a log, which tells it from the same line of another start.
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
# Lines of a start that the next one is compared with; what prints more is handed on as it is.
MAX_COMPARED_LINES = 1000


class Printed:
    """The lines of one process.

    As long as a start prints the lines of the failed one before it, they are held back: nothing is new to a reader.
    They are handed on with the first line that differs, or when the start succeeds; otherwise `end` drops them.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.error = ""  # the last one that this start has told
        self._on_line = on_line
        self._before: list[str] = []
        self._compared: list[str] = []
        self._held: list[str] = []
        self._is_starting = True

    def begin(self) -> None:
        """Begin with another start, after a failed one."""
        self.error = ""
        self._before, self._compared, self._held = self._compared, [], []
        self._is_starting = True

    def take(self, line: str) -> None:
        self.error = logs.read_error(line) or self.error
        if not self._is_starting:
            self._on_line(line)
            return
        timeless = _TIME.sub("", line)
        if len(self._compared) < MAX_COMPARED_LINES:
            self._compared.append(timeless)
        if self._before[len(self._held) : len(self._held) + 1] == [timeless]:
            self._held.append(line)
        else:
            self._release()
            self._on_line(line)

    def forget(self) -> None:
        """Hold back nothing of this start, nor of the next one: it has succeeded, or somebody waits for its lines."""
        self._release()
        self._compared = []
        self._is_starting = False

    def end(self) -> bool:
        """Say whether this start has printed what the one before it did, and nothing else."""
        is_repeated = bool(self._before) and len(self._held) == len(self._before)
        if not is_repeated:
            self._release()
        return is_repeated

    def _release(self) -> None:
        held, self._held, self._before = self._held, [], []
        for line in held:
            self._on_line(line)
