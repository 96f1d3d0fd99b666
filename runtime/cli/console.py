"""What a run shows: its own lines and those of its processes, until nobody reads them any more."""

import os
import sys
from collections.abc import Callable
from typing import TextIO

from runtime.deploy.process import LinePrinter


class Console:
    """One stream of lines. on_closed: called once, when the other end of the stream is gone."""

    def __init__(self, on_closed: Callable[[], None], stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._on_closed = on_closed
        self._closed = False
        self._printer = LinePrinter(self._stream, [], colour=False)

    def name_processes(self, names: list[str]) -> None:
        """Tell which names will stand before lines, so that they are aligned."""
        self._printer = LinePrinter(self._stream, names, colour=self._stream.isatty())

    def line(self, name: str, line: str) -> None:
        """Show a line of a process."""
        self._guarded(lambda: self._printer(name, line))

    def say(self, text: str) -> None:
        """Show a line of the run itself."""
        self._guarded(lambda: print(text, file=self._stream, flush=True))

    def _guarded(self, write: Callable[[], None]) -> None:
        if self._closed:
            return
        try:
            write()
        except OSError:
            self._closed = True
            self._discard_the_rest()
            self._on_closed()

    def _discard_the_rest(self) -> None:
        """Let what is still buffered go nowhere; Python would complain about it at its exit."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
