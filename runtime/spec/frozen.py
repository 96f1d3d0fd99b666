"""The base of the models in `spec/`."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Unknown keys are faults, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
