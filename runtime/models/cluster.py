"""The models present under one name: from what their hosts tell of themselves to runners that can be called.

    presence ──▶ _on_presence ──▶ a runner for each deployment ──▶ set up in the background ──▶ models_run
                                                                                             └─▶ models_unusable

Everything happens on the loop, in the order of the events; only setups, probes and reports take time, each in a task
of its own, so that one model never holds up another. A watch begins with everybody who is there, so a lost connection
needs no care here: who is gone expires, and who is back is told again.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from runtime.bus.base import Bus
from runtime.bus.presence import PresenceSet, ServiceRecord
from runtime.errors import BusClosedError, BusError, DecodeError, InvalidCoordinatorUsageError
from runtime.models.background import Background
from runtime.models.host_clock import Birth
from runtime.models.link import HostLink
from runtime.models.model_runner import ModelRunner
from runtime.models.penalties import Event, Limits, Verdict, decide
from runtime.models.reports import Report, deliver
from runtime.models.results import Ending, Reason
from runtime.models.wire import REPORT, FailureCode, HostRecord, HostState
from runtime.spec import names

log = logging.getLogger(__name__)

# Seconds until a model that nobody has stopped is tried again: the first time, and at most. It doubles in between.
FIRST_RETRY_S = 30.0
MAX_RETRY_S = 600.0
# Seconds that the last reports may hold up the end.
CLOSE_S = 1.0

OnChange = Callable[[ModelRunner], None]


class ModelCluster:
    """Follows the models of a cluster. The three tables hold runners by model id and are to be read only.

    models_run: can be called now. models_pending: are being set up, or their host starts again. models_unusable: are
    present but called no more, see `ModelRunner.reason`. on_join, on_leave: called, on the loop, with a runner that
    comes into, or goes out of, `models_run`.
    """

    def __init__(
        self,
        crunch_id: str,
        link: HostLink,
        create_model_runner: Callable[..., ModelRunner],
        *,
        limits: Limits,
        report_failure: bool = True,
    ) -> None:
        self.crunch_id = crunch_id
        self.models_run: dict[str, ModelRunner] = {}
        self.models_pending: dict[str, ModelRunner] = {}
        self.models_unusable: dict[str, ModelRunner] = {}
        self.on_join: OnChange | None = None
        self.on_leave: OnChange | None = None
        self._link = link
        self._create_model_runner = create_model_runner
        self._limits = limits
        self._report_failure = report_failure
        # Presence key -> the runner of that deployment.
        self._hosts: dict[str, ModelRunner] = {}
        self._unreadable: set[str] = set()
        self._presence: PresenceSet | None = None
        # Those that `init` waits for.
        self._awaited: set[ModelRunner] = set()
        self._settled = asyncio.Event()
        self._ended = asyncio.Event()
        self._fault: BaseException | None = None
        self._probing: set[ModelRunner] = set()
        self._reports = Background(self.fail)
        link.on_set_up = self._on_set_up

    # --- life ---

    async def init(self, bus: Bus, ready_timeout_s: float) -> None:
        """Follow the cluster from now on; return when everybody who is there is ready or has failed, or in time.

        Raises BusError, and InvalidCoordinatorUsageError when a host does not understand what it is to set up.
        """
        self._presence = await PresenceSet.open(
            bus,
            names.PRESENCE_BUCKET,
            names.model_presence_keys(self.crunch_id),
            self._link.clock,
            on_change=self._on_presence,
        )
        self._awaited = {runner for runner in self._hosts.values() if runner.is_in_setup}
        if self._awaited and self._fault is None:
            self._settled.clear()
            timer = self._link.clock.call_later(ready_timeout_s, self._settled.set)
            try:
                await self._settled.wait()
            finally:
                timer.cancel()
        self._raise_fault()

    async def sync(self) -> None:
        """Return once closed. Raises when the coordinator cannot go on: BusClosedError, or what a host has refused."""
        closed = asyncio.create_task(self._link.bus.wait_closed(), name="wait for the end of NATS")
        ended = asyncio.create_task(self._ended.wait(), name="wait for the end of the coordinator")
        try:
            await asyncio.wait([closed, ended], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (closed, ended):
                task.cancel()
        self._raise_fault()
        if not self._ended.is_set():
            raise BusClosedError("the connection to NATS is closed for good; models are neither followed nor called")

    async def close(self) -> None:
        """Deliver the last reports, end everything, and leave the hosts as they are."""
        if self._presence is not None:
            await self._presence.close()
        for runner in list(self._hosts.values()):
            self._remove(runner, "the coordinator is closed")
        await self._reports.finish(CLOSE_S)
        self._ended.set()

    def fail(self, error: BaseException) -> None:
        """Let `sync` raise this; the first one counts."""
        self._fault = self._fault or error
        self._settled.set()
        self._ended.set()

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    # --- presence ---

    def _on_presence(self, key: str, told: ServiceRecord | None) -> None:
        if told is None:
            self._unreadable.discard(key)
            if key in self._hosts:
                self._remove(self._hosts[key], "its host is gone")
            return
        try:
            record = HostRecord.of(key, told)
        except (ValueError, TypeError) as error:
            if key not in self._unreadable:
                log.warning("key %s of the presence bucket is no model host: %s", key, error)
            self._unreadable.add(key)
            return
        if (runner := self._hosts.get(key) or self._meet(key, record)) is not None:
            runner.hear(record)
            self._follow(runner)

    def _meet(self, key: str, record: HostRecord) -> ModelRunner | None:
        """Return a runner for a deployment that is new here; None for one that need not be called, or was replaced."""
        if record.state not in (HostState.RUNNING, HostState.FAILED):
            return None
        birth = Birth.of(record, self._link.clock.time_ns() // 1_000_000)
        if any(other.birth.is_after(birth) for other in self._hosts.values() if other.model_id == record.model_id):
            return None
        runner = self._create_model_runner(
            link=self._link,
            model_id=record.model_id,
            model_name=record.name,
            deployment_id=record.deployment,
            infos=record.infos,
        )
        self._hosts[key] = runner
        return runner

    def _follow(self, runner: ModelRunner) -> None:
        """Do what the state of its host asks for; called with every beat."""
        match runner.state:
            case HostState.RUNNING:
                if runner.reason and runner.is_made_anew:
                    self._take_back(runner)
                elif runner.is_ready:
                    self._enter_run(runner)
                elif not runner.reason and not runner.is_in_setup:
                    self._set_up(runner)
            case HostState.INITIALIZING | HostState.RECOVERING:
                self._leave_run(runner)
                if not runner.reason:
                    self.models_pending[runner.model_id] = runner
            case HostState.STOPPING:
                # What it is calculating may still come.
                self._leave_run(runner)
                _drop(self.models_pending, runner)
            case HostState.STOPPED:
                self._remove(runner, "its host has stopped")
            case HostState.FAILED:
                self._put_aside(runner, runner.host_reason or "its host has given it up")

    def _set_up(self, runner: ModelRunner) -> None:
        if self.models_run.get(runner.model_id) is not runner:
            self.models_pending[runner.model_id] = runner
        runner.begin_setup()

    def _on_set_up(self, runner: ModelRunner, ending: Ending) -> None:
        """Go on after a setup, whoever has asked for it."""
        if runner.closed:
            return
        if ending.reason is Reason.OK:
            if runner.is_ready:
                self._enter_run(runner)
        elif ending.reason is Reason.INVALID:
            self._put_aside(runner, ending.detail)
            self.fail(InvalidCoordinatorUsageError(f"model {runner.model_id} refuses its setup: {ending.text}"))
        elif ending.reason is Reason.CONFLICT:
            log.warning("model %s is left out: %s", runner.model_id, ending.text, extra={"action": "unusable"})
            self._put_aside(runner, ending.detail)
            self._retry_later(runner)
        else:
            self._judge_ending(runner, ending)
        self._awaited.discard(runner)
        if not self._awaited:
            self._settled.set()

    # --- the three tables ---

    def _enter_run(self, runner: ModelRunner) -> None:
        _drop(self.models_pending, runner)
        _drop(self.models_unusable, runner)
        before = self.models_run.get(runner.model_id)
        if before is runner or (before is not None and before.birth.is_after(runner.birth)):
            return
        for other in list(self._hosts.values()):
            if other.model_id == runner.model_id and runner.birth.is_after(other.birth):
                self._remove(other, "a newer deployment has replaced it")
        self.models_run[runner.model_id] = runner
        log.info("model %s can be called", runner.model_id, extra={"action": "join"})
        _tell(self.on_join, runner)

    def _leave_run(self, runner: ModelRunner) -> None:
        if _drop(self.models_run, runner):
            log.info("model %s cannot be called", runner.model_id, extra={"action": "leave"})
            _tell(self.on_leave, runner)

    def _put_aside(self, runner: ModelRunner, reason: str) -> None:
        """Call it no more."""
        runner.put_aside(reason)
        _drop(self.models_pending, runner)
        self.models_unusable[runner.model_id] = runner
        self._leave_run(runner)

    def _take_back(self, runner: ModelRunner) -> None:
        """Give it another chance."""
        if runner.closed or runner.state is not HostState.RUNNING:
            return
        _drop(self.models_unusable, runner)
        runner.take_back()
        self._set_up(runner)

    def _remove(self, runner: ModelRunner, why: str) -> None:
        """Forget a deployment; a call that waits for it ends."""
        self._hosts.pop(self._key(runner), None)
        runner.close()
        for table in (self.models_pending, self.models_unusable):
            _drop(table, runner)
        self._probing.discard(runner)
        self._leave_run(runner)
        for call in list(self._link.open_calls):
            call.leave(runner, why)
        self._awaited.discard(runner)
        if not self._awaited:
            self._settled.set()

    def _key(self, runner: ModelRunner) -> str:
        return names.presence_key(names.MODEL, self.crunch_id, runner.model_id, runner.deployment_id)

    # --- penalties ---

    def takes_turn(self, runner: ModelRunner) -> bool:
        """Say whether a model is part of the call that is about to be made, and note that it was made."""
        decision = decide(runner.counters, Event.TURN, self._limits)
        runner.counters = decision.counters
        return decision.verdict is Verdict.CALL

    def judge(self, runner: ModelRunner, ending: Ending) -> None:
        """Note how a call of everybody has ended with a model, and do what has to be done about it."""
        if not runner.closed and not runner.reason:
            self._judge_ending(runner, ending)

    def _judge_ending(self, runner: ModelRunner, ending: Ending) -> None:
        event = ending.event
        if ending.reason is Reason.UNAVAILABLE and runner.state is not HostState.RUNNING:
            event = Event.NOTHING
        decision = decide(runner.counters, event, self._limits)
        runner.counters = decision.counters
        if event is Event.SUCCESS:
            runner.retry_s = 0.0
        if decision.verdict is Verdict.PROBE:
            self._probe(runner)
        elif decision.verdict is Verdict.REPORT and decision.code is not None:
            self._give_up(runner, decision.code, ending.detail)

    def _give_up(self, runner: ModelRunner, code: FailureCode, reason: str) -> None:
        self._put_aside(runner, f"{code}: {reason}")
        if self._report_failure and not runner.is_reported:
            runner.is_reported = True
            report = Report(subject=runner.subject(REPORT), model_id=runner.model_id, code=code, reason=reason)
            self._reports.start(deliver(self._link, report), f"report of {runner.model_id}")
        elif not self._report_failure:
            log.warning(
                "model %s is left out, and not reported: %s: %s", runner.model_id, code, reason,
                extra={"action": "unreported"},
            )  # fmt: skip
        if not self._report_failure or code is FailureCode.CONNECTION_FAILED:
            self._retry_later(runner)

    def _retry_later(self, runner: ModelRunner) -> None:
        runner.retry_s = min(MAX_RETRY_S, 2 * runner.retry_s or FIRST_RETRY_S)
        runner.retry_in(runner.retry_s, partial(self._take_back, runner))

    def _probe(self, runner: ModelRunner) -> None:
        if runner not in self._probing:
            self._probing.add(runner)
            self._link.background.start(self._look_after(runner), f"probe {runner.model_id}")

    async def _look_after(self, runner: ModelRunner) -> None:
        """Ask for the health of a model that has not answered; if its host is not well, set it up again."""
        started_s = self._link.clock.monotonic()
        try:
            is_well = (await runner.health()).is_good
        except (BusError, DecodeError) as error:
            is_well = False
            log.debug("no health of model %s: %s", runner.model_id, error)
        self._probing.discard(runner)
        is_cut_off = self._link.bus.online_s < self._link.clock.monotonic() - started_s
        if is_well or is_cut_off or runner.why_not is not None:
            return
        log.warning("the host of model %s is not well", runner.model_id, extra={"action": "unwell"})
        runner.forget_setup()
        self._leave_run(runner)
        self._set_up(runner)


def _drop(table: dict[str, ModelRunner], runner: ModelRunner) -> bool:
    """Take a runner out of a table, not another one of the same model."""
    if table.get(runner.model_id) is not runner:
        return False
    del table[runner.model_id]
    return True


def _tell(listener: OnChange | None, runner: ModelRunner) -> None:
    if listener is None:
        return
    try:
        listener(runner)
    except Exception:  # the user's own: it harms no other model
        log.exception("a listener has failed for model %s", runner.model_id, extra={"action": "listener"})
