"""Reports of models that are called no more: each reaches its host once, also after NATS was away."""

import logging
from dataclasses import dataclass

import orjson

from runtime.errors import BusError, BusUnavailableError, NoRespondersError
from runtime.models.answers import refusal
from runtime.models.link import HostLink
from runtime.models.wire import FailureCode

log = logging.getLogger(__name__)

# Seconds that a host may take to accept a report, from one try to the next, and until a report is given up.
REPORT_TIMEOUT_S = 5.0
RETRY_S = 2.0
KEPT_S = 600.0
# Tries without anybody listening after which the host is taken for dead; it may be about to subscribe again.
MAX_UNHEARD = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Why a model is called no more. subject: of its host."""

    subject: str
    model_id: str
    code: FailureCode
    reason: str


async def deliver(link: HostLink, report: Report) -> None:
    """Return when the host has accepted the report, or never will; which of them is logged."""
    told = {"failure_code": report.code, "failure_reason": report.reason, "coordinator": link.coordinator}
    body = orjson.dumps(told)
    give_up_s = link.clock.monotonic() + KEPT_S
    unheard = 0
    why = "its host has not answered in time"
    while link.clock.monotonic() < give_up_s and unheard < MAX_UNHEARD:
        try:
            answer = await link.bus.request(report.subject, body, timeout_s=REPORT_TIMEOUT_S)
        except NoRespondersError:
            unheard += 1
            why = "its host is gone"
        except BusUnavailableError:
            unheard = 0
        except BusError as error:
            why = str(error)
            break
        else:
            if (refused := refusal(answer.headers)) is None:
                _log(logging.WARNING, report, "model %s is reported: %s: %s", report.code, report.reason)
                return
            why = str(refused)
            break
        await link.clock.sleep(RETRY_S)
    _log(logging.ERROR, report, "the report of model %s is lost (%s): %s", report.code, why, action="unreported")


def _log(level: int, report: Report, text: str, *values: object, action: str = "reported") -> None:
    log.log(level, text, report.model_id, *values, extra={"action": action})
