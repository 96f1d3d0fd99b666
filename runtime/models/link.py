"""What the runners of one coordinator share: the connection, the clock, the ids of calls and the form of requests."""

import itertools
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from runtime.bus.base import Bus, CoreMessage
from runtime.bus.bodies import CLAIM_HEADER, ENCODING_HEADER, Body, pack, unpack
from runtime.bus.core import Headers
from runtime.clock import Clock
from runtime.errors import InvalidCoordinatorUsageError, MessageTooLargeError
from runtime.models.background import Background
from runtime.models.results import Ending
from runtime.models.wire import CALL_ID_HEADER, DEADLINE_HEADER
from runtime.spec import names
from runtime.wire import HEADER_ROOM_BYTES, MAX_CLAIM_BYTES

# Bytes that one body may take up on the wire, all its receivers together; what is more goes through the object store.
MAX_COPIES_BYTES = 8 * 1024 * 1024

_NOT_OPEN = "the coordinator is not connected; `await runner.init()` comes first"


class OpenCall(Protocol):
    """A call that waits for models."""

    def leave(self, model: Any, why: str) -> None:
        """A model is no more."""
        ...


@dataclass(kw_only=True, eq=False)
class HostLink:
    """How hosts are reached. timeout_s: of a call that has none of its own. open_calls: told of models that leave.

    on_set_up: called with a runner, and how its setup has ended, once for each setup.
    """

    cluster: str
    clock: Clock
    background: Background
    timeout_s: float
    max_claim_bytes: int = MAX_CLAIM_BYTES
    coordinator: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    open_calls: set[OpenCall] = field(default_factory=set)
    on_set_up: Callable[[Any, Ending], None] = lambda *_: None
    connection: Bus | None = None
    is_closed: bool = False
    _calls: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _call_prefix: str = field(default_factory=lambda: secrets.token_hex(6))

    @property
    def bus(self) -> Bus:
        """The connection. Raises InvalidCoordinatorUsageError before `init`."""
        if self.connection is None:
            raise InvalidCoordinatorUsageError(_NOT_OPEN)
        return self.connection

    def check_open(self) -> None:
        """Raise InvalidCoordinatorUsageError before `init` and after `close`."""
        if self.is_closed:
            raise InvalidCoordinatorUsageError("the coordinator is closed; make another one")
        if self.connection is None:
            raise InvalidCoordinatorUsageError(_NOT_OPEN)

    def subject(self, model_id: str, deployment: str, action: str) -> str:
        return names.model_subject(self.cluster, model_id, deployment, action)

    def new_call_id(self) -> str:
        return f"{self._call_prefix}-{next(self._calls)}"

    def deadline_ms(self, timeout_s: float) -> int:
        """Return the moment `timeout_s` from now, unix time in ms."""
        return self.clock.time_ns() // 1_000_000 + round(timeout_s * 1000)

    def check_size(self, data: bytes) -> None:
        """Raise MessageTooLargeError for a body that could not be sent in any way."""
        if len(data) > self.max_claim_bytes:
            raise MessageTooLargeError(
                f"a request of {len(data):,} bytes is larger than {self.max_claim_bytes:,}; send less"
            )

    def fits(self, size_bytes: int, receivers: int) -> bool:
        """Say whether a body is sent as it is to so many receivers."""
        return (
            size_bytes <= self.bus.max_payload_bytes - HEADER_ROOM_BYTES and size_bytes * receivers <= MAX_COPIES_BYTES
        )

    async def pack(self, data: bytes, receivers: int) -> Body:
        """Return what is sent for a body. Raises what `bodies.pack` raises."""
        limit_bytes = self.bus.max_payload_bytes
        room_bytes = max(HEADER_ROOM_BYTES, limit_bytes - MAX_COPIES_BYTES // receivers)
        return await pack(
            self.bus,
            names.model_store(self.cluster),
            data,
            room_bytes=room_bytes,
            max_claim_bytes=self.max_claim_bytes,
        )

    @staticmethod
    def is_packed(message: CoreMessage) -> bool:
        return bool(message.headers) and (ENCODING_HEADER in message.headers or CLAIM_HEADER in message.headers)

    async def unpack(self, message: CoreMessage) -> bytes:
        """Return the body of an answer. Raises what `bodies.unpack` raises."""
        return await unpack(
            self.bus,
            names.model_store(self.cluster),
            message.data,
            message.headers,
            max_bytes=self.max_claim_bytes,
        )

    async def ask(self, subject: str, data: bytes, *, timeout_s: float, behind_ms: int = 0) -> tuple[Headers, bytes]:
        """Send one request that is no call; return headers and body of the answer.

        behind_ms: by which the host's clock is behind ours. Raises BusError, and DecodeError for the answer's body.
        """
        headers = {DEADLINE_HEADER: str(self.deadline_ms(timeout_s) - behind_ms), CALL_ID_HEADER: self.new_call_id()}
        body = await self.pack(data, 1)
        answer = await self.bus.request(subject, body.data, timeout_s=timeout_s, headers={**headers, **body.headers})
        return answer.headers, await self.unpack(answer)
