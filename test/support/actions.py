"""Waits for log records by their `action`, so that a test need not sleep until something has happened."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager


class Actions(logging.Handler):
    """Collects the actions of all records from when it is made."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.names: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if action := getattr(record, "action", ""):
            self.names.append(action)
            self._loop.call_soon_threadsafe(self._news.set)

    async def wait_for(self, action: str, *, count: int = 1, patience_s: float = 20.0) -> None:
        """Return when `action` was logged `count` times."""
        try:
            async with asyncio.timeout(patience_s):
                while self.names.count(action) < count:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no {count} × {action!r} within {patience_s:g} s: {self.names}") from None


@contextmanager
def actions() -> Iterator[Actions]:
    """Collect what `runtime` logs inside the block."""
    logger, handler = logging.getLogger("runtime"), Actions()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
