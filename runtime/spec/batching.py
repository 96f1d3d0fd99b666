"""How a node groups messages for its handler (YAML key `batch`), as its runner is told.

Kind `batch`, the runs of packaged models, is something else: see `spec/batch.py`.
"""

from typing import Annotated

from pydantic import Field

from runtime.spec.frozen import Frozen

# Messages of one call at most, and seconds that the first of them waits for others, when the file does not say.
DEFAULT_MAX_MESSAGES = 64
DEFAULT_WAIT_S = 0.008
# Most messages of one call. Each needs a slot of its own in the runner.
MAX_MESSAGES = 4096


class BatchingSpec(Frozen):
    """One call takes up to `max_messages`, or what has arrived within `wait_s` of the first of them.

    by: path of the field that says what a message costs, "" for no limit of that kind. max_cost: of one call; a single
    message may cost more.
    """

    max_messages: Annotated[int, Field(ge=1, le=MAX_MESSAGES)] = DEFAULT_MAX_MESSAGES
    wait_s: Annotated[float, Field(ge=0)] = DEFAULT_WAIT_S
    by: str = ""
    max_cost: Annotated[float, Field(gt=0)] | None = None
