"""Log lines: text or JSON, one format for the root logger, warnings and the user's own loggers.

Text: `2026-11-21T10:00:00.123Z INFO message key=value`, UTC. KRE's collector starts a record at this pattern only, so
continuation lines are indented by two spaces: they stay with their record and cannot forge one.
"""

import json
import logging
import os
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

# Fields that records may carry through `extra`, in the order in which they are printed.
FIELDS = ("workflow", "node", "replica", "request_id", "attempt", "action")
# The node that a task works for, in a process with several: `node` of every record that does not say it.
NODE: ContextVar[str] = ContextVar("node", default="")

_LEVELS = {"DEBUG": "DEBUG", "INFO": "INFO", "WARNING": "WARN", "ERROR": "ERROR", "CRITICAL": "ERROR"}


def configure(
    *, level: str = "INFO", log_format: str = "text", file: Path | None = None, stream: TextIO | None = None,
    fields: dict[str, object] | None = None,
) -> None:  # fmt: skip
    """Set the root logger up once per process. fields: constant fields of every record (JSON lines only)."""
    formatter = JsonFormatter(fields or {}) if log_format == "json" else TextFormatter()
    handlers: list[logging.Handler] = [logging.StreamHandler(stream or sys.stderr)]
    if file is not None:
        # Half a surrogate pair in a message would cost the line otherwise; standard error has the same.
        handlers.append(logging.FileHandler(file, encoding="utf-8", errors="backslashreplace"))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    for handler in handlers:
        handler.setFormatter(formatter)
        handler.addFilter(_tell_node)
        root.addHandler(handler)
    root.setLevel(logging.WARNING if level == "WARN" else level)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a broken log line must not fail a message
    # Refused reconnects of TLS connections print this line at WARNING, each time; it means nothing.
    logging.getLogger("asyncio").addFilter(lambda record: "eof_received" not in record.getMessage())


def _tell_node(record: logging.LogRecord) -> bool:
    if (node := NODE.get()) and not hasattr(record, "node"):
        record.node = node
    return True


class TextFormatter(logging.Formatter):
    """One record as a line of text; what follows a line break is indented."""

    def format(self, record: logging.LogRecord) -> str:
        time = _time(record)
        fields = "".join(f" {name}={getattr(record, name)}" for name in FIELDS if hasattr(record, name))
        text = f"{time} {_LEVELS.get(record.levelname, record.levelname)} {record.getMessage()}{fields}"
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return text.replace("\r", "").replace("\n", "\n  ")


class JsonFormatter(logging.Formatter):
    """One record as a JSON object."""

    def __init__(self, fields: dict[str, object]) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": _LEVELS.get(record.levelname, record.levelname),
            "logger": record.name,
            "message": record.getMessage(),
            **self._fields,
            **{name: getattr(record, name) for name in FIELDS if hasattr(record, name)},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{record.msecs:03.0f}Z"


def read_error(line: str) -> str:
    """Return the message, or its first line, of an ERROR as the formatters here write it; "" for any other line."""
    if line.startswith("{"):
        return _read_json_error(line)
    time, _, message = line.partition(" ERROR ")
    if " " in time or not time.endswith("Z"):
        return ""
    for _ in FIELDS:
        before, _, last_word = message.rpartition(" ")
        if last_word.partition("=")[0] not in FIELDS:
            break
        message = before
    return message


def _read_json_error(line: str) -> str:
    try:
        record = json.loads(line)
    except ValueError:
        return ""
    return str(record.get("message", "")).partition("\n")[0] if record.get("level") == "ERROR" else ""


def tell_ready(ready_fd: int | None) -> None:
    """Say once to the process that started this one that it is ready: `ready` on the inherited pipe, then close it."""
    _tell(ready_fd, b"ready\n")


def tell_failed(ready_fd: int | None) -> None:
    """Say in place of `tell_ready` that this process will not do its work, and stays only to tell why: `failed`."""
    _tell(ready_fd, b"failed\n")


def _tell(ready_fd: int | None, line: bytes) -> None:
    if ready_fd is None or ready_fd < 0:
        return
    try:
        os.write(ready_fd, line)
        os.close(ready_fd)
    except OSError:  # nobody waits any more
        logging.getLogger(__name__).debug("nobody reads the ready pipe %d", ready_fd)
