"""Sources `timer` and `cron`: an input at every interval, or whenever a cron expression says."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator

from runtime.drivers.components import missing_extra
from runtime.drivers.flow import Item, Seconds, Source, SourceParameters, Wait

# Longest time between two looks at the wall clock, which may be set while a cron source waits.
LOOK_EVERY_S = 30.0


class TimerParameters(SourceParameters):
    """Parameters of `timer`."""

    interval: Seconds = Field(gt=0, description="Between two inputs, counted from the start.")
    inputs: Any = Field(None, description="What is sent each time; by default {tick, time}, with the time in UTC.")
    count: int | None = Field(None, ge=0, description="How many inputs there are; without it, no end.")


class TimerSource(Source):
    """Sends an input at once and then at every interval. Ticks that a stall has missed are left out."""

    parameters = TimerParameters
    params: TimerParameters
    _tick = 0

    async def read(self) -> AsyncIterator[Any]:
        clock, interval_s = self.site.clock, self.params.interval
        due_s = clock.monotonic()
        while self.params.count is None or self._tick < self.params.count:
            now_s = clock.monotonic()
            if now_s < due_s:
                yield Wait(due_s - now_s)
                continue
            due_s += interval_s * (1 + (now_s - due_s) // interval_s)
            self._tick += 1
            now = datetime.fromtimestamp(clock.time_ns() / 1e9, UTC)
            default = {"tick": self._tick, "time": _in_utc(now)}
            yield default if self.params.inputs is None else self.params.inputs


class CronParameters(SourceParameters):
    """Parameters of `cron`."""

    expression: str = Field(description="Five fields, such as `*/5 8-17 * * mon-fri`; a sixth is seconds.")
    timezone: str = Field("UTC", description="In which the expression is read, such as Europe/Amsterdam.")
    inputs: Any = Field(None, description="What is sent each time; by default {time}, in UTC.")

    @field_validator("expression")
    @classmethod
    def _check_expression(cls, expression: str) -> str:
        if not _croniter().is_valid(expression):
            raise ValueError(f'"{expression}" is no cron expression; write five fields: 0 6 * * mon-fri')
        return expression

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f'"{timezone}" is no time zone: Europe/Amsterdam') from error
        return timezone


class CronSource(Source):
    """Sends an input at the times of a cron expression.

    Several drivers with the same ref send it once: its request id is made of the time. Times at which no driver ran are
    left out. Needs krt-runtime[cron].
    """

    parameters = CronParameters
    params: CronParameters

    async def read(self) -> AsyncIterator[Any]:
        zone: tzinfo = ZoneInfo(self.params.timezone)
        due = self._next_after(self._now(zone))
        while True:
            left_s = (due - self._now(zone)).total_seconds()
            if left_s > 0:
                yield Wait(min(left_s, LOOK_EVERY_S))
                continue
            time = _in_utc(due)
            request_id = f"{self.site.driver}.{self.site.ref}.{time}"
            yield Item({"time": time} if self.params.inputs is None else self.params.inputs, request_id=request_id)
            due = self._next_after(max(due, self._now(zone)))

    def _now(self, zone: tzinfo) -> datetime:
        return datetime.fromtimestamp(self.site.clock.time_ns() / 1e9, zone)

    def _next_after(self, moment: datetime) -> datetime:
        following: datetime = _croniter()(self.params.expression, moment).get_next(datetime)
        return following


def _croniter() -> Any:
    try:
        from croniter import croniter  # type: ignore[import-untyped]  # it ships no types
    except ModuleNotFoundError as error:
        raise missing_extra("cron", "croniter") from error
    return croniter


def _in_utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
