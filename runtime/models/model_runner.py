"""One model, as a coordinator sees it: one deployment of its host, and the ways to ask it something.

Runners are made by the cluster when a host turns up. A user may call one by one on a schedule of his own: such a call
is neither left out nor counted, penalties belong to the calls of everybody.
"""

import asyncio
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import orjson

from runtime.clock import TimerHandle
from runtime.errors import BusError, DecodeError, MessageError
from runtime.models.answers import read_reset, read_setup, refusal, without_answer
from runtime.models.call_requests import Arguments, CallRequests, as_arguments, check_class_name, checked_timeout_s
from runtime.models.fan_out import FanOut
from runtime.models.host_clock import Birth, HostClock
from runtime.models.link import HostLink
from runtime.models.penalties import Counters
from runtime.models.results import Ending, Reason
from runtime.models.wire import HEALTH, RESET, SETUP, HostRecord, HostState
from runtime.proto.models import SetupRequest

log = logging.getLogger(__name__)

# Seconds that a host may take for a setup: constructors load weights.
SETUP_TIMEOUT_S = 60.0
# Seconds before each further try of a setup that nobody has answered; a host that was killed counts as present for 6 s.
SETUP_DELAYS_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
# Seconds until a host that can answer has told its health.
HEALTH_TIMEOUT_S = 2.0

# Ends of a setup that pass by themselves.
_PASSING = frozenset({Reason.BUSY, Reason.UNAVAILABLE, Reason.DEADLINE_EXCEEDED, Reason.CONNECTION_LOST})


@dataclass(frozen=True, slots=True, kw_only=True)
class HostHealth:
    """What a host says of itself. busy_for_ms: since when it runs a call, 0 for none."""

    state: str
    instance: int
    busy_for_ms: int
    child_alive: bool

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises DecodeError."""
        try:
            told: dict[str, Any] = orjson.loads(data)
            return cls(
                state=str(told["state"]),
                instance=int(told.get("instance", 0)),
                busy_for_ms=int(told.get("busy_for_ms", 0)),
                child_alive=bool(told.get("child_alive", True)),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DecodeError(f"this is no health of a model host: {error!r}", reason="payload") from error

    @property
    def is_good(self) -> bool:
        return self.state == HostState.RUNNING and self.child_alive


class ModelRunner(ABC):
    """A model. Two runners are never equal: each belongs to one deployment, and is closed with it.

    infos: of the model's owner, and replaced when they change. state: what its host is doing. reason: why it is not
    called any more, "" while it is.
    """

    def __init__(
        self, *, link: HostLink, model_id: str, model_name: str, deployment_id: str, infos: Mapping[str, Any]
    ) -> None:
        """Made by `ModelConcurrentRunner.create_model_runner`, with what that was called with."""
        self.model_id = model_id
        self.model_name = model_name
        self.deployment_id = deployment_id
        self.infos = dict(infos)
        self.state = HostState.RUNNING
        self.reason = ""
        self.counters = Counters()
        self.closed = False
        self.birth = Birth(0, 0)
        # Why its host says that it has failed.
        self.host_reason = ""
        # Seconds until it was tried again when it was put aside last, 0 after a success.
        self.retry_s = 0.0
        self.is_reported = False
        # Microseconds that its last answer took; one that has not answered yet may be the slowest.
        self.last_time_us = sys.maxsize
        self._aside_instance = 0
        self._retry: TimerHandle | None = None
        self._link = link
        self._clock = HostClock()
        # Number of the instance that its host has; another one is to be set up.
        self._instance = 0
        self._is_set_up = False
        self._setup: asyncio.Task[Ending] | None = None

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(model_id={self.model_id!r}, model_name={self.model_name!r}, "
            f"deployment_id={self.deployment_id!r}, state={str(self.state)!r})"
        )

    @abstractmethod
    def setup_request(self) -> Any:
        """Return the `SetupRequest` with which the host makes its instance; called for every setup."""
        ...

    @property
    def consecutive_failures(self) -> int:
        return self.counters.failures

    @property
    def consecutive_timeouts(self) -> int:
        return self.counters.timeouts

    # --- requests ---

    async def call(
        self,
        method_name: str,
        arguments: Arguments | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | Sequence[Any] = (),
        timeout: float | None = None,
    ) -> tuple[Any, Ending | None]:
        """Call a method of this model; return its value and None, or None and why there is none.

        arguments: `([Argument, …], [KwArgument, …])`. args, kwargs: the same as plain values. timeout: in seconds, by
        default the coordinator's. Raises InvalidCoordinatorUsageError, EncodingError.
        """
        timeout_s = checked_timeout_s(self._link.timeout_s if timeout is None else timeout)
        body = CallRequests(method_name, as_arguments(arguments, args, kwargs)).body_for(self)
        self._link.check_size(body)
        fan_out = FanOut(self._link, [self], timeout_s)
        await fan_out.run({self: body})
        ending = fan_out.endings[self]
        return (ending.value, None) if ending.reason is Reason.OK else (None, ending)

    async def health(self, timeout: float = HEALTH_TIMEOUT_S) -> HostHealth:
        """Ask how the host is; it answers while a call runs. A model that is well can be called from then on.

        Raises BusError, DecodeError.
        """
        headers, data = await self._link.ask(self.subject(HEALTH), b"", timeout_s=timeout)
        if (refused := refusal(headers)) is not None:
            raise BusError(f"the host of {self.model_id} does not tell its health: {refused}")
        health = HostHealth.decode(data)
        # What the host has told everybody may still be on its way: who has heard this must not be told otherwise.
        if health.is_good and self.state is not HostState.RUNNING:
            self._note(HostState.RUNNING, health.instance)
        return health

    async def reset(self, timeout: float = SETUP_TIMEOUT_S) -> Ending | None:
        """Replace the instance by a new one, made with the arguments of the setup; None, or why that has failed."""
        try:
            answer = await self._link.ask(self.subject(RESET), b"", timeout_s=timeout, behind_ms=self._clock.behind_ms)
        except BusError as error:
            return without_answer(error)
        ending = read_reset(*answer)
        return None if ending.reason is Reason.OK else ending

    def subject(self, action: str) -> str:
        """Return where the host of this deployment takes requests."""
        return self._link.subject(self.model_id, self.deployment_id, action)

    # --- its host ---

    def hear(self, record: HostRecord) -> None:
        """Take in what the host tells with every beat; called by the cluster, as are the methods below."""
        now_ms = self._link.clock.time_ns() // 1_000_000
        self.model_name = record.name
        self.infos = dict(record.infos)
        self.host_reason = record.reason
        was_right = not self._clock.behind_ms
        self._clock.hear(record.now_ms, now_ms)
        if was_right and self._clock.behind_ms:
            log.warning(
                "the clock of model %s is %d ms behind ours; its deadlines are shifted", self.model_id, self.behind_ms,
                extra={"action": "clock"},
            )  # fmt: skip
        birth = Birth.of(record, now_ms)
        if not self.birth.at_ms or birth.at_ms < self.birth.at_ms:
            self.birth = birth
        self._note(record.state, record.instance)

    def _note(self, state: HostState, instance: int) -> None:
        if instance != self._instance or state in (HostState.INITIALIZING, HostState.RECOVERING):
            self._is_set_up = False
        self.state = state
        self._instance = instance

    @property
    def behind_ms(self) -> int:
        """Milliseconds that the host's clock is behind ours."""
        return self._clock.behind_ms

    @property
    def is_ready(self) -> bool:
        """Whether it can be called at once: there is an instance, as far as we know."""
        return self._is_set_up and self.why_not is None

    @property
    def why_not(self) -> Ending | None:
        """Why it cannot be called, not even after a setup; None if it can."""
        if self.closed:
            return Ending(Reason.CLOSED, "it is no more")
        if self.reason or self.state is not HostState.RUNNING:
            return Ending(Reason.NOT_READY, self.reason or f"its host is {self.state}")
        return None

    @property
    def is_in_setup(self) -> bool:
        return self._setup is not None and not self._setup.done()

    @property
    def is_made_anew(self) -> bool:
        """Whether its host has made another instance since it was put aside."""
        return self._instance != self._aside_instance

    def put_aside(self, reason: str) -> None:
        """Call it no more, for this reason."""
        self.reason = reason
        self._is_set_up = False
        self._aside_instance = self._instance

    def take_back(self) -> None:
        """Call it again, once it is set up."""
        self.reason = ""
        self.counters = Counters()

    def retry_in(self, delay_s: float, retry: Callable[[], None]) -> None:
        """Call back after this time, unless it is closed before."""
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self._link.clock.call_later(delay_s, retry)

    def forget_setup(self) -> None:
        """Have it set up before the next call: its host has no instance, or is not well."""
        self._is_set_up = False

    def close(self) -> None:
        """End it for good, with its setup."""
        self.closed = True
        if self._retry is not None:
            self._retry.cancel()
        if self._setup is not None:
            self._setup.cancel()

    # --- setup ---

    def begin_setup(self) -> "asyncio.Task[Ending]":
        """Set it up in the background; all who ask meanwhile share one setup."""
        if self._setup is None or self._setup.done():
            self._setup = self._link.background.start(self._set_up(), name=f"setup {self.model_id}")
        return self._setup

    async def set_up(self) -> Ending:
        """Return when there is an instance, or why there is none. Cancelling it leaves the setup going on."""
        return await asyncio.shield(self.begin_setup())

    async def _set_up(self) -> Ending:
        ending = await self._try_setup()
        delays_s = list(SETUP_DELAYS_S)
        while ending.reason in _PASSING:
            if ending.reason is not Reason.BUSY and not delays_s:
                ending = Ending(Reason.UNREACHABLE, f"setup: {ending.text}")
                break
            await self._link.clock.sleep(delays_s.pop(0) if delays_s else SETUP_DELAYS_S[-1])
            ending = await self._try_setup()
        if ending.reason is Reason.OK:
            self._is_set_up = self.state is HostState.RUNNING
        self._link.on_set_up(self, ending)
        return ending

    async def _try_setup(self) -> Ending:
        try:
            answer = await self._link.ask(
                self.subject(SETUP),
                self.setup_request().SerializeToString(),
                timeout_s=SETUP_TIMEOUT_S,
                behind_ms=self._clock.behind_ms,
            )
        except BusError as error:
            return without_answer(error)
        except MessageError as error:
            return Ending(Reason.INVALID, str(error))
        return read_setup(*answer)


class DynamicSubclassModelRunner(ModelRunner):
    """A model whose class is found by its base class."""

    def __init__(
        self, base_classname: str, instance_args: Sequence[Any], instance_kwargs: Sequence[Any], **kwargs: Any
    ) -> None:
        """base_classname: `module.Class`. instance_args, instance_kwargs: Arguments and KwArguments to make it with."""
        super().__init__(**kwargs)
        check_class_name(base_classname)
        self._request = SetupRequest(
            className=base_classname, instanceArguments=instance_args, instanceKwArguments=instance_kwargs
        )

    def setup_request(self) -> Any:
        return self._request
