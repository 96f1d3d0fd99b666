"""How a run ends: what its exit says, what the record says then, and who is told."""

import asyncio
import logging

from runtime.batch.backend import Exit
from runtime.batch.parts import Tools
from runtime.batch.records import Kept
from runtime.batch.run import Reason
from runtime.errors import BusClosedError, BusError, StoreError
from runtime.spec.batch import BatchSpec
from runtime.spec.node import RetryPolicy

log = logging.getLogger(__name__)

# Largest exponent of a growing delay: beyond, it has long reached its cap.
MAX_EXPONENT = 64


def verdict(spec: BatchSpec, ended: Exit, cause: Reason | None) -> tuple[Reason | None, str]:
    """Return why a model has not done its work, None if it has; nothing is said of its outputs.

    cause: why it was stopped, None if it has ended by itself.
    """
    if cause is Reason.TIMEOUT:
        return cause, f"it ran longer than {spec.timeout_s:g} s"
    if cause is not None:
        return cause, "cancelled while it ran"
    if ended.out_of_memory:
        return Reason.OUT_OF_MEMORY, ended.detail
    if ended.signal:
        return Reason.SIGNAL, ended.detail or f"ended by {ended.signal}"
    if ended.code in spec.unsupported:
        return Reason.UNSUPPORTED_INPUT, f"exit code {ended.code}: the model does not support this input"
    return (Reason.EXIT_CODE, ended.detail or f"exit code {ended.code}") if ended.code else (None, "")


async def store(tools: Tools, kept: Kept) -> Kept:
    """Store what a run has left, for as long as the node tries, and finish it. Raises RevisionError, BusError."""
    record, tries = kept.record, 0
    while True:
        try:
            stored = await tools.storing.store(record, tools.workspace(record.run_id))
            break
        except BusClosedError:
            raise
        except (StoreError, BusError, OSError) as error:
            tries += 1
            if tries >= tools.retry.attempts:
                return await finish(tools, kept, Reason.STORE_FAILED, f"{error}; `krt runs retry-store` tries again")
            log.warning("run '%s' is not stored yet: %s", record.run_id, error, extra={"action": "store"})
            await tools.clock.sleep(delay_s(tools.retry, tries))
    locations = record.locations.model_copy(update={"export": stored.export})
    kept = Kept(record.with_artifacts(stored.artifacts).changed(locations=locations), kept.revision)
    if record.reason is None:
        return await finish(tools, kept, stored.reason, stored.detail)
    # What the exit says of the model comes before what its outputs say.
    return await finish(tools, kept, record.reason, record.detail)


async def finish(tools: Tools, kept: Kept, reason: Reason | None, detail: str) -> Kept:
    """Write down how a run has ended, tell it, and remove its files. Raises RevisionError, BusError."""
    # The intent to tell it stands in the same write: a crash before it is told repeats the call under the same key.
    record = kept.record.ended(reason, detail, tools.records.now_ms(), keep_s=tools.spec.artifacts.keep_s)
    kept = await tools.records.change(kept, record)
    log.info("run '%s' is %s %s", record.run_id, record.state, detail, extra={"action": f"run-{record.state}"})
    kept = await tell_end(tools, kept)
    # Its files are all that there is of a run that could not be stored.
    if reason is not Reason.STORE_FAILED:
        await asyncio.to_thread(tools.workspace(record.run_id).remove)
    return kept


async def tell_end(tools: Tools, kept: Kept) -> Kept:
    """Tell how a run has ended if that is due, and write down what is known of it then."""
    end = kept.record.callbacks.end
    if end.status != "pending" or end.next > tools.records.now_ms():
        return kept
    told = await tools.callbacks.tell_end(kept.record)
    callbacks = kept.record.callbacks.model_copy(update={"end": told})
    return await tools.records.change(kept, kept.record.changed(callbacks=callbacks))


def delay_s(policy: RetryPolicy, failures: int) -> float:
    """Return the pause after so many failures, in seconds."""
    try:
        return min(policy.max_s, policy.first_s * policy.factor ** min(failures - 1, MAX_EXPONENT))
    except OverflowError:
        return policy.max_s
