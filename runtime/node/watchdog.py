"""Notices an event loop that a handler holds up, and names the line: all else stands still meanwhile."""

import asyncio
import logging
import sys
import threading
import time
import traceback

log = logging.getLogger(__name__)

# Seconds that the loop may be held before it is reported, and between looks.
LIMIT_S = 1.0
LOOK_S = 0.25


class LoopWatchdog:
    """A daemon thread that asks the loop for a sign of life; made on the loop's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._beat_s = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loop-watchdog", daemon=True)

    def start(self) -> None:
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _beat(self) -> None:
        self._beat_s = time.monotonic()

    def _watch(self) -> None:
        reported_s = 0.0
        while not self._stop.wait(LOOK_S):
            try:
                self._loop.call_soon_threadsafe(self._beat)
            except RuntimeError:  # the loop is closed
                return
            held_s = time.monotonic() - self._beat_s
            if held_s > LIMIT_S and reported_s != self._beat_s:
                reported_s = self._beat_s
                log.warning(
                    "the event loop is held for %.1f s by %s; use 'def' instead of 'async def', or await",
                    held_s, self._where(), extra={"action": "loop-held"},
                )  # fmt: skip

    def _where(self) -> str:
        frame = sys._current_frames().get(self._loop_thread)
        if frame is None:
            return "an unknown line"
        last = traceback.extract_stack(frame)[-1]
        return f"{last.filename}:{last.lineno} ({last.name})"
