"""What the workflow takes and answers, as its nodes tell it in their service records; {} while nobody has."""

import asyncio
import logging

from runtime.bus.presence import PresenceSet, ServiceRecord
from runtime.clock import Clock
from runtime.drivers.base import RestrictedInferenceProcess, WorkflowSchema
from runtime.errors import BusClosedError, BusError
from runtime.spec import names
from runtime.spec.schema_check import SchemaCheck

log = logging.getLogger(__name__)

# Seconds between two attempts to hear of the nodes, while NATS is away.
RETRY_S = 5.0


class WorkflowTypes:
    """Always current: a node that is deployed anew with other types tells them with its first beat."""

    def __init__(self, inference: RestrictedInferenceProcess, clock: Clock) -> None:
        self.schema = inference.schema
        self.check = SchemaCheck(self.schema.inputs)
        self._inference = inference
        self._clock = clock

    async def run(self) -> None:
        """Listen to the nodes, until cancelled."""
        keys = names.presence_key(names.NODE, self._inference.stream, ">")
        while True:
            try:
                nodes = await PresenceSet.open(
                    self._inference.bus, names.PRESENCE_BUCKET, keys, self._clock, on_change=self._on_beat
                )
                break
            except BusClosedError:
                raise
            except BusError as error:
                log.info("the types of the workflow are not known yet: %s", error, extra={"action": "types"})
                await self._clock.sleep(RETRY_S)
        try:
            await asyncio.Event().wait()
        finally:
            await nodes.close()

    def _on_beat(self, key: str, record: ServiceRecord | None) -> None:
        """Take over what a node tells; what one that is gone has told holds until another one comes."""
        told = record.metadata.get(names.SCHEMAS) if record is not None else None
        if not isinstance(told, dict):
            return
        schema = WorkflowSchema(
            inputs=told.get("inputs", self.schema.inputs), outputs=told.get("outputs", self.schema.outputs)
        )
        if schema != self.schema:
            self.schema, self.check = schema, SchemaCheck(schema.inputs)
