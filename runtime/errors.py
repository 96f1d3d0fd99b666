"""Every error of the runtime, in one tree. Callers catch by class, never by text.

    KrtError
    ├── ConfigError                    what a person wrote is wrong; nothing has been started
    │   ├── SettingsError              KRT_* variables
    │   ├── CredentialsError           a folder of credentials
    │   ├── WorkflowError              workflow.yaml (carries every problem of the file)
    │   ├── HandlerLoadError           handler.py does not import, or does not fit
    │   └── AdapterError               an adapter of algorithms does not import, or offers what cannot be served
    ├── MessageError                   one message cannot be read or written; a retry cannot help
    │   ├── DecodeError                bytes that are no envelope, or a payload that is not what the handler takes
    │   ├── EncodeError                a value that has no form on the wire
    │   │   └── EncodingError          a value of a model call
    │   └── MessageTooLargeError       larger than the server or the stream takes
    ├── BusError
    │   ├── BusUnavailableError        not connected, no leader, no answer in time; passes by itself
    │   ├── AccessError                the server does not let us in, or forbids a subject; only a person can help
    │   ├── BusClosedError             the connection is closed for good; the process has to end
    │   ├── StreamFullError            the stream refuses (discard new) until the manager has purged
    │   ├── WrongStreamError           the subject belongs to another stream than the one expected
    │   ├── NotFoundError              no such stream, consumer, bucket, key or object
    │   ├── NoRespondersError          nobody listens on the subject of a request
    │   ├── RevisionError              compare-and-set lost: somebody else wrote first
    │   ├── CorruptObjectError         the bytes of a stored object are not those that were written
    │   ├── DriftError                 a stream or consumer differs from the plan in a way that is not updatable
    │   └── ServerError                no usable nats-server, or one below the floor
    │       └── StoreInUseError        another nats-server has the folder; two would destroy its data
    ├── StoreError                     a document or point could not be stored or found
    │   ├── StoreUnavailableError      passes by itself; worth a retry
    │   ├── DuplicateDocumentError     another document has this _id
    │   ├── DocumentError              this document cannot be stored: type, size, key
    │   └── QueryError                 this query cannot be answered: operator, type
    ├── ContextError                   a handler used its context wrongly
    ├── BatchResultError               a handler for batches did not return one result for each message
    ├── InvalidCoordinatorUsageError   a call of models is wrong; nothing has been sent
    ├── HandlerTimeoutError            a handler ran longer than its node's timeout
    ├── JoinTimeoutError               a part that a join waits for did not come in time
    ├── PredictionError                a request ended without an OK (client side)
    ├── AlgorithmError                 a call of an algorithm ended without a result (caller's side)
    ├── WorkflowStartError             a process of a workflow does not come up
    ├── PullError                      a packaged model cannot be had: no such image or program, or no right to it
    ├── BackendUnavailableError        what runs packaged models cannot be reached: the engine, the registry, a device
    ├── ModelStartError                a packaged model is here, but cannot be started
    ├── RunStateError                  a batch run cannot take this step: it has ended, or is not that far
    ├── CallbackError                  whoever has to be asked about a batch run refuses, or does not answer
    ├── WorkerBusyError                a worker process has not answered its last request
    ├── WorkerEndedError               a worker process has ended, or does so during a request
    └── DriverError
        ├── DriverNotFoundError        no driver of this ref or pid
        ├── DriverExistsError          the ref belongs to a driver that is still there
        ├── DriverStartError           it cannot be made, or fails before it runs
        └── InvalidParametersError     its parameters are refused; the old ones stay

Outcomes that a handler may raise *or return* are no failures and stand apart:

    Outcome ── Retry(after) · Wait(reason) · Reject(reason) · Drop(reason)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class KrtError(Exception):
    """Root of everything that the runtime raises on purpose."""


class ConfigError(KrtError):
    """Something a person wrote is wrong; the message says what, where and what to do."""


class SettingsError(ConfigError):
    """The KRT_* variables are wrong; `problems` holds one sentence for each, sorted by variable."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join([f"error reading config: {len(self.problems)} problem(s)", *self.problems]))


class CredentialsError(ConfigError):
    """A folder of credentials is wrong; `problems` holds one sentence for each fault, with the file and the remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One fault of a workflow file: `FILE:LINE:COLUMN: what; remedy [code]` (line and column count from 1)."""

    line: int
    column: int
    file: str
    what: str
    remedy: str
    code: str
    warning: bool = False

    def __str__(self) -> str:
        warning = "warning: " if self.warning else ""
        return f"{self.file}:{self.line}:{self.column}: {warning}{self.what}; {self.remedy} [{self.code}]"


class WorkflowError(ConfigError):
    """The workflow file has faults; `problems` holds all of them, ordered by place."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class HandlerLoadError(ConfigError):
    """The user's handler module does not import, lacks a handler, or has one with a wrong signature."""


class AdapterError(ConfigError):
    """An adapter does not import, or offers what cannot be served; `problems` holds one sentence for each fault."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class MessageError(KrtError):
    """One message cannot be read or written. Retrying the same bytes gives the same error."""


class DecodeError(MessageError):
    """The bytes are no envelope, or the payload is not what the handler takes. `reason` is a stable word.

    Reasons: `gzip`, `protobuf`, `wire` (the other wire version), `payload-type`, `payload` (fails validation), `claim`.
    """

    def __init__(self, message: str, *, reason: str, request_id: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.request_id = request_id


class EncodeError(MessageError):
    """A value has no form on the wire: its type is unknown, or it holds NaN or an integer beyond 64 bits."""


class EncodingError(EncodeError, ValueError):
    """A value of a model call has no form on the wire, or not as the type it is to have. Also a ValueError."""


class MessageTooLargeError(MessageError):
    """The message with its headers is larger than the server or the stream takes, even compressed."""


class BusError(KrtError):
    """The bus refused or could not be reached."""


class BusUnavailableError(BusError):
    """Not connected, no leader or no answer in time. It passes by itself: back off and try again."""


class AccessError(BusError):
    """The server does not let this process in, or forbids one of its subjects. Waiting and trying again cannot help."""


class BusClosedError(BusError):
    """The connection is closed for good. The process has to end with a non-zero exit code."""


class StreamFullError(BusError):
    """The stream is full and refuses new messages. Backpressure, not a failure: try again later."""


class WrongStreamError(BusError):
    """The subject belongs to another stream than the expected one."""


class NotFoundError(BusError):
    """No such stream, consumer, bucket, key, object store or object; the message names it."""


class NoRespondersError(BusError):
    """Nobody listens on the subject of a request."""


class RevisionError(BusError):
    """A compare-and-set write lost: the entry has another revision, or exists already; or what was read is replaced."""


class CorruptObjectError(BusError):
    """A stored object lacks bytes, or its hash differs from that of what was written. Reading again gives the same."""


class DriftError(BusError):
    """What exists differs from what was asked for, and cannot be updated in place; the message is a diff."""


class ServerError(BusError):
    """There is no usable nats-server, or the one found is below the floor; the message names the ways to get one."""


class StoreInUseError(ServerError):
    """Another nats-server has the folder of the data. It passes when that one ends."""


class StoreError(KrtError):
    """A document or a point could not be stored or found."""


class StoreUnavailableError(StoreError):
    """The store cannot be reached or is busy. It passes by itself: worth a retry.

    retry_after_s: how long the store has asked to be left alone, in seconds; 0 when it did not say.
    """

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DuplicateDocumentError(StoreError):
    """Another document has this `_id`, with other content."""


class DocumentError(StoreError, TypeError):
    """This document cannot be stored: a type, a size or a key; the message gives the key path.

    Also a TypeError, which is what KRE's handlers know from `json.dumps`.
    """


class QueryError(StoreError):
    """This query cannot be answered; the message names the operator and the alternatives."""


class ContextError(KrtError):
    """A handler used a member of its context where, or in a way, it is not available."""


class BatchResultError(KrtError):
    """A handler for batches did not return one result for each message, so that nobody knows whose is whose."""


class InvalidCoordinatorUsageError(KrtError, ValueError):
    """A coordinator calls models wrongly: a class name, a method's name, positions, keywords. Nothing was sent."""


class HandlerTimeoutError(KrtError):
    """A handler ran longer than its node's `timeout`, or beyond the request's deadline."""


class JoinTimeoutError(KrtError):
    """A set of parts was not complete within the node's `join.timeout`; the message names what is missing."""


class PredictionError(KrtError):
    """A request ended without an OK: `outcome`, `node`, `request_id` and `detail` say how."""

    def __init__(self, detail: str, *, outcome: str, request_id: str = "", node: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.outcome = outcome
        self.request_id = request_id
        self.node = node


class AlgorithmError(KrtError):
    """A call of an algorithm ended without a result.

    outcome: see `algorithms.wire.Outcome`. errors: one for each fault of the arguments, with `path` and `message`.
    traceback: of the algorithm, "" for none.
    """

    def __init__(
        self, detail: str, *, outcome: str, errors: Sequence[Mapping[str, str]] = (), traceback: str = ""
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.outcome = outcome
        self.errors = tuple(errors)
        self.traceback = traceback


class WorkflowStartError(KrtError):
    """A process of a workflow does not come up; the message names it, and how it ended."""


class PullError(KrtError):
    """The image or the program of a packaged model does not exist, or is refused to us. Only a person can help."""


class BackendUnavailableError(KrtError):
    """What runs packaged models cannot be reached: engine, registry, a device. It passes by itself: worth a retry."""


class ModelStartError(KrtError):
    """A packaged model is here, but the system or the engine refuses to start it. A retry gives the same."""


class RunStateError(KrtError):
    """A batch run cannot take this step: it has ended, or is not that far; the message names both."""


class CallbackError(KrtError):
    """Whoever has to be asked about a batch run refuses, or does not answer; the message says which, and why."""


class WorkerBusyError(KrtError):
    """A worker process has not answered its last request; nothing was sent to it."""


class WorkerEndedError(KrtError):
    """A worker process has ended. exit_code: of the process, or minus the number of the signal that ended it."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class DriverError(KrtError):
    """A driver could not be found, made or changed."""


class DriverNotFoundError(DriverError):
    """There is no driver of this ref or pid; the message names those that there are."""


class DriverExistsError(DriverError):
    """Another driver has this ref; remove it first."""


class DriverStartError(DriverError):
    """A driver cannot be imported or made, is no driver, or got no port; the message says which, and why."""


class InvalidParametersError(DriverError):
    """Parameters of a wrong name, type or value; the message names every field. What held before still does."""


class Outcome(Exception):
    """What a handler may raise or return in place of a result."""


class Retry(Outcome):
    """Deliver this message again after `after_s` seconds (None: the node's own backoff). Counts as an attempt."""

    def __init__(self, after_s: float | None = None, reason: str = "") -> None:
        super().__init__(reason or "the handler asked for a retry")
        self.after_s = after_s
        self.reason = reason


class Wait(Outcome):
    """Deliver this message again later: what it needs is not there yet. Uses up no attempt.

    first_s, max_s: the first pause and the longest, in seconds; they double between. limit_s: how long the message may
    wait, from its first pause on, until it is given up; None for ever.
    """

    def __init__(self, reason: str, *, limit_s: float | None = None, first_s: float = 0.5, max_s: float = 5.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.limit_s = limit_s
        self.first_s = first_s
        self.max_s = max_s


class Reject(Outcome):
    """Give this message up now: dead letter with `reason`, ERROR to the caller, no further attempt."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Drop(Outcome):
    """Acknowledge this message without an output; `reason` is counted and logged at DEBUG."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
