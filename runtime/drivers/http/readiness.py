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
    if exits and exits.isdisjoint(await _nodes_at_work(inference)):
        return f"no replica of node {' or '.join(sorted(exits))} is alive, which answers the requests"
    return ""


async def _nodes_at_work(inference: RestrictedInferenceProcess) -> set[str]:
    """Return the nodes whose consumer has somebody who asks for messages, or is at work on some.

    A replica that was killed counts until its messages are given to another one, within the ack wait.
    """
    states = await inference.bus.consumer_states(inference.stream)
    return {names.node_of(state.name) for state in states if state.waiting or state.ack_pending or state.is_push}
