"""What coordinators and model hosts agree on beside the messages of `runtime.proto.models`: words, headers, records.

Subjects: `names.model_subject(cluster, model_id, deployment, action)`. Bodies: `bus/bodies.py`, with the object store
`names.model_store(cluster)`. A host refuses a request with a service error: an answer without a body and with the two
headers of an error of NATS micro-services.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Self

from runtime.bus.presence import ServiceRecord

# Actions of a host. `health` has JSON in its answer; `report`, `stop` and `infos` in both directions.
SETUP, CALL, RESET, HEALTH, REPORT, STOP = "setup", "call", "reset", "health", "report", "stop"
# From whoever started the host: {name, infos} that hold from now on.
INFOS = "infos"
ACTIONS = (SETUP, CALL, RESET, HEALTH, REPORT, STOP, INFOS)

# Unix time in ms until which the caller waits, for the whole call.
DEADLINE_HEADER = "Krt-Deadline"
# The same for every delivery of one call, so that a host can repeat its answer.
CALL_ID_HEADER = "Krt-Call-Id"
# In the answer to a call: microseconds that the model has taken for it.
MODEL_TIME_HEADER = "Krt-Model-Time"
# Of NATS micro-services: why a request was not answered.
ERROR_CODE_HEADER = "Nats-Service-Error-Code"
ERROR_HEADER = "Nats-Service-Error"


class StatusCode(StrEnum):
    """Codes of `Status`."""

    SUCCESS = "SUCCESS"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    # There is no instance yet.
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    BAD_IMPLEMENTATION = "BAD_IMPLEMENTATION"
    SETUP_FAILED = "SETUP_FAILED"
    MODEL_FAILED = "MODEL_FAILED"
    UNKNOWN = "UNKNOWN"


class ServiceError(IntEnum):
    """Codes of a refusal."""

    INVALID = 400
    # Not allowed to ask.
    REFUSED = 401
    TOO_LARGE = 413
    # Another call runs.
    BUSY = 429
    # The model's process is being started, or has failed for good.
    UNAVAILABLE = 503
    # The deadline has passed, or would have before the call could start.
    LATE = 504


class FailureCode(StrEnum):
    """Why a coordinator reports a model."""

    BAD_IMPLEMENTATION = "BAD_IMPLEMENTATION"
    MULTIPLE_FAILED = "MULTIPLE_FAILED"
    MULTIPLE_TIMEOUT = "MULTIPLE_TIMEOUT"
    CONNECTION_FAILED = "CONNECTION_FAILED"


# After these a model stays stopped until its code, resources or hardware change, or somebody lets it go on.
QUARANTINED = frozenset({FailureCode.BAD_IMPLEMENTATION, FailureCode.MULTIPLE_FAILED, FailureCode.MULTIPLE_TIMEOUT})


class HostState(StrEnum):
    """What a model host is doing."""

    # The process of the model starts.
    INITIALIZING = "initializing"
    # The only state in which it is called.
    RUNNING = "running"
    # The process of the model has died, or was killed, and is started again.
    RECOVERING = "recovering"
    STOPPING = "stopping"
    STOPPED = "stopped"
    # The restarts are used up, or it is quarantined.
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRecord:
    """One start of a model host, as it told last.

    deployment: of this start. name: for people. infos: of the model's owner. instance: counts up with every start of
    the model's process and every reset, after which it has to be set up again; 0 before the first. now_ms: the host's
    clock, unix time, when it told this. pid: of the host, not of the model's process. reason: of its last failure, ""
    for none.
    """

    cluster: str
    model_id: str
    deployment: str
    name: str
    state: HostState
    infos: Mapping[str, Any]
    instance: int
    started_ms: int
    now_ms: int
    host: str
    pid: int
    restarts: int = 0
    reason: str = ""

    @classmethod
    def of(cls, key: str, record: ServiceRecord) -> Self:
        """Read it from a presence record and its key. Raises ValueError for one that is no host's."""
        _kind, cluster, model_id, deployment = key.split(".")
        told = record.metadata
        return cls(
            cluster=cluster,
            model_id=model_id,
            deployment=deployment,
            name=str(told.get("name") or model_id),
            state=HostState(told.get("state", "")),
            infos=dict(told.get("infos") or {}),
            instance=int(told.get("instance", 0)),
            started_ms=record.started_ms,
            now_ms=int(told.get("now_ms", 0)),
            host=record.host,
            pid=record.pid,
            restarts=int(told.get("restarts", 0)),
            reason=str(told.get("reason", "")),
        )

    def metadata(self) -> dict[str, Any]:
        """Return what the presence record's metadata holds."""
        return {
            "name": self.name,
            "state": self.state,
            "infos": dict(self.infos),
            "instance": self.instance,
            "now_ms": self.now_ms,
            "restarts": self.restarts,
            "reason": self.reason,
        }
