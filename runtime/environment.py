"""The environment, read variable by variable: what is missing or wrong is remembered, and told at once by `checked`.

Used by `settings.py`, which knows what each process kind needs, and by nobody else.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from runtime.durations import duration_s
from runtime.errors import SettingsError
from runtime.message import MAX_CLAIM_BYTES, MAX_INFLATED_BYTES

T = TypeVar("T")

DEFAULT_NATS_PORT = 4222
DEFAULT_INBOX_PREFIX = "_INBOX"
# Seconds for a JetStream request or a PubAck.
DEFAULT_REQUEST_TIMEOUT_S = 5.0
# Seconds between SIGTERM and giving deliveries back: below the 30 s after which Kubernetes kills.
DEFAULT_GRACE_S = 25.0
# Seconds for one call at KRE's entrypoint.
DEFAULT_ENTRYPOINT_TIMEOUT_S = 30.0
# KRE's log collector reads this file where its folder exists.
KRE_LOG_FILE = Path("/var/log/app/app.log")
# The limit of the consumer that a bare runner makes for itself: ours and KRE's own name of it.
CONSUMER_LIMITS = ("KRT_NATS_MAX_ACK_PENDING", "KRT_MAX_PENDING_ACK")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How a process logs: format `text` or `json`, level DEBUG, INFO, WARN or ERROR."""

    format: str
    level: str
    file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsSettings:
    """Where NATS is, and who this process is there.

    request_timeout_s: for API requests and PubAcks. credentials: folder, see `bus/credentials.py`. inbox_prefix: of the
    subjects on which answers arrive; with one of its own, no other process can be allowed to read them.
    """

    servers: tuple[str, ...] = field(repr=False)  # may hold a password, as the other URIs here
    request_timeout_s: float
    credentials: Path | None = None
    inbox_prefix: str = DEFAULT_INBOX_PREFIX


def read_credentials_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder of credentials for NATS, for those who need nothing else of the environment."""
    folder = environ.get("KRT_NATS_CREDENTIALS", "").strip()
    return Path(folder) if folder else None


class Reader:
    """Reads variables and remembers what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._problems: dict[str, str] = {}

    def checked(self, settings: T) -> T:
        """Return `settings`, or raise SettingsError if anything was wrong."""
        if self._problems:
            raise SettingsError([self._problems[name] for name in sorted(self._problems)])
        return settings

    def text(self, name: str, expected: str = "", default: str | None = None) -> str:
        value = self._environ.get(name, "").strip()
        if value:
            return value
        if default is None:
            self._missing(name, expected)
            return ""
        return default

    def boolean(self, name: str) -> bool:
        value = self.text(name, default="false").lower()
        if value not in ("true", "false", "1", "0"):
            self._wrong(name, "true, false, 1 or 0")
        return value in ("true", "1")

    def number(
        self, name: str, kind: Callable[[str], T], expected: str, default: T, *, low: T, high: T | None = None
    ) -> T:
        text = self.text(name, default="")
        if not text:
            return default
        try:
            value = kind(text)
        except ValueError:
            self._wrong(name, expected)
            return default
        if not value >= low or (high is not None and not value <= high):  # type: ignore[operator]  # numbers only
            self._wrong(name, expected)
        return value

    def duration(self, name: str, default_s: float) -> float:
        text = self.text(name, default="")
        try:
            return duration_s(text) if text else default_s
        except ValueError:
            self._wrong(name, "a duration, e.g. 500ms, 30s or 2m")
            return default_s

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """Return one of the choices, the first one by default."""
        value = self.text(name, default=choices[0])
        if value not in choices:
            self._wrong(name, " or ".join(choices))
        return value

    def matching(self, name: str, pattern: re.Pattern[str], expected: str) -> str:
        """Return a text of this form, or "" where there is none."""
        value = self.text(name, default="")
        if value and pattern.fullmatch(value) is None:
            self._wrong(name, expected)
        return value

    def uri(self, name: str, schemes: tuple[str, ...], expected: str) -> str:
        value = self.text(name, expected)
        if value and value.partition("://")[0] not in schemes:
            self._wrong(name, expected)
        return value

    def nats(self) -> NatsSettings:
        expected = "a list of host[:port] or nats://…, e.g. nats://localhost:4222"
        servers = []
        for item in self.text("KRT_NATS_SERVER", expected).split(","):
            if not (item := item.strip()):
                self._wrong_unless_missing("KRT_NATS_SERVER", expected)
                continue
            scheme, separator, rest = item.partition("://")
            if not separator:
                scheme, rest = "nats", item
            if scheme not in ("nats", "tls", "ws", "wss"):
                self._wrong("KRT_NATS_SERVER", expected)
            host = rest.rpartition("@")[2]
            # Over WebSocket the port is that of HTTP.
            has_port = scheme in ("ws", "wss") or re.search(r":\d+$", host)
            port = "" if has_port else f":{DEFAULT_NATS_PORT}"
            servers.append(f"{scheme}://{rest}{port}")
        timeout_s = self.number(
            "KRT_JS_REQUEST_TIMEOUT", float, "seconds, 0.1 to 300", DEFAULT_REQUEST_TIMEOUT_S, low=0.1, high=300.0
        )
        return NatsSettings(
            servers=tuple(servers),
            request_timeout_s=timeout_s,
            credentials=read_credentials_folder(self._environ),
            inbox_prefix=self.text("KRT_NATS_INBOX_PREFIX", default=DEFAULT_INBOX_PREFIX),
        )

    def inputs(self) -> tuple[str, ...]:
        several = self.text("KRT_NATS_INPUTS", default="")
        if not several:
            return (self.text("KRT_NATS_INPUT", "subject, e.g. prod_v1_greeter.entrypoint"),)
        items = tuple(item.strip() for item in several.split(","))
        if "" in items:
            self._wrong("KRT_NATS_INPUTS", "a comma list without an empty item")
        return items

    def handler_path(self) -> str:
        path = self.text("KRT_HANDLER_PATH", "file below KRT_BASE_PATH, e.g. src/handler.py")
        if path and os.path.normpath(path).startswith(("..", os.sep)):
            self._wrong("KRT_HANDLER_PATH", "a file below KRT_BASE_PATH")
        return path

    def database(self) -> str:
        """Return the database of save and find, by the rule that KRE's writer follows too."""
        name = self.text("KRT_MONGO_DB_NAME", default="")
        if name and not self.text("KRT_MONGO_BUCKET", default=""):
            return name
        writer = self.text("KRT_NATS_MONGO_WRITER", default="")
        return f"{writer.rpartition('.')[2]}-data" if "." in writer else "data"

    def max_ack_pending(self) -> int | None:
        for name in CONSUMER_LIMITS:
            if self.text(name, default=""):
                value = self.number(name, int, "a whole number, 1 or more, or -1 for no limit", 1, low=-1)
                if value == 0:
                    self._wrong(name, "a whole number, 1 or more, or -1 for no limit")
                return value
        return None

    def max_inflated_bytes(self) -> int:
        return self.number("KRT_MAX_INFLATED_BYTES", int, "bytes, 1024 or more", MAX_INFLATED_BYTES, low=1024)

    def max_claim_bytes(self) -> int:
        return self.number("KRT_MAX_CLAIM_BYTES", int, "bytes, 1024 or more", MAX_CLAIM_BYTES, low=1024)

    def log(self) -> LogSettings:
        log_format = self.text("KRT_LOG_FORMAT", default="text")
        if log_format not in ("text", "json"):
            self._wrong("KRT_LOG_FORMAT", "text or json")
        level = self.text("KRT_LOG_LEVEL", default="INFO").upper().replace("WARNING", "WARN")
        if level not in ("DEBUG", "INFO", "WARN", "ERROR"):
            self._wrong("KRT_LOG_LEVEL", "DEBUG, INFO, WARN or ERROR")
        file = self.text("KRT_LOG_FILE", default="")
        return LogSettings(format=log_format, level=level, file=Path(file) if file else _kre_log_file())

    def grace(self) -> float:
        expected = "seconds, 0 to 3600"
        return self.number("KRT_SHUTDOWN_GRACE", float, expected, DEFAULT_GRACE_S, low=0.0, high=3600.0)

    def ready_fd(self) -> int | None:
        return (
            self.number("KRT_READY_FD", int, "the number of an open pipe", -1, low=-1) if self.has_ready_fd() else None
        )

    def has_ready_fd(self) -> bool:
        return bool(self.text("KRT_READY_FD", default=""))

    def wire(self) -> str:
        """Return the wire version. KRE's variables tell its runners apart; a plan of ours is always of the second."""
        stated = self.stated_wire()
        first = any(name in self._environ for name in ("KRT_NATS_ENTRYPOINT_SUBJECT", "KRT_IS_LAST_NODE"))
        planned = bool(self.text("KRT_NODE_SPEC", default=""))
        return stated or ("v1" if first and not planned else "v2")

    def stated_wire(self) -> str:
        stated = self.text("KRT_WIRE", default="")
        if stated not in ("", "v1", "v2"):
            self._wrong("KRT_WIRE", "v1 or v2")
        return stated

    def _missing(self, name: str, expected: str) -> None:
        self._problems[name] = f"the '{name}' env var is missing ({expected})"

    def _wrong(self, name: str, expected: str) -> None:
        # As `redact` does, and without a scheme too: a server may be written as `user:password@host`.
        shown = re.sub(r"(^|://|,\s*)[^/\s,]+@", r"\1***@", self.text(name, default=""))
        self._problems[name] = f"the '{name}' env var is '{shown}': expected {expected}"

    def _wrong_unless_missing(self, name: str, expected: str) -> None:
        if name not in self._problems:
            self._wrong(name, expected)


def _kre_log_file() -> Path | None:
    folder = KRE_LOG_FILE.parent
    return KRE_LOG_FILE if folder.is_dir() and os.access(folder, os.W_OK) else None
