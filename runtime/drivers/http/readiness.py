"""Whether requests would be answered: NATS is there, the workflow is deployed, and its last node is alive."""

import asyncio

from runtime.drivers.base import RestrictedInferenceProcess
from runtime.errors import BusError, NotFoundError
from runtime.spec import names

# Seconds that the look may take.
LOOK_S = 2.0


async def why_not_ready(inference: RestrictedInferenceProcess) -> str:
    """Return what is missing, "" when nothing is."""
    try:
        async with asyncio.timeout(LOOK_S):
            return await _missing(inference)
    except (BusError, TimeoutError) as error:
        return f"NATS cannot be reached: {error or 'no answer'}"


async def _missing(inference: RestrictedInferenceProcess) -> str:
    try:
        await inference.bus.stream_state(inference.stream)
    except NotFoundError:
        return f"workflow {inference.workflow} is not deployed: there is no stream {inference.stream}"
    exits = {subject.split(".")[1] for subject in inference.output_subjects}
    alive = await _nodes_alive(inference)
    if exits and exits.isdisjoint(alive):
        return f"no replica of node {' or '.join(sorted(exits))} is alive, which answers the requests"
    return ""


async def _nodes_alive(inference: RestrictedInferenceProcess) -> set[str]:
    """Return the nodes of the workflow that have a live replica, by their records, which expire."""
    try:
        presence = await inference.bus.key_value(names.PRESENCE_BUCKET)
    except NotFoundError:  # no process of any workflow has been there
        return set()
    prefix = names.presence_key(names.NODE, inference.stream, "")
    return {key.removeprefix(prefix).split(".")[0] for key in await presence.keys() if key.startswith(prefix)}
