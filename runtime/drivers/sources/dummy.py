"""Source `dummy`: made-up inputs of any format at any rate."""

import random
from collections.abc import AsyncIterator
from typing import Any

from pydantic import Field, field_validator

from runtime.drivers.flow import Source, SourceParameters
from runtime.drivers.sources.samples import sample, schema_of


class DummyParameters(SourceParameters):
    """Parameters of `dummy`."""

    format: Any = Field(
        default="integer", description="Of the inputs: type, model, JSON Schema, or a mapping of names to these."
    )
    rate: float | None = Field(1.0, gt=0, description="Inputs per second at most; without it, as they come.")
    count: int | None = Field(None, ge=0, description="How many inputs there are; without it, no end.")
    seed: int = Field(0, description="The same one gives the same inputs.")

    @field_validator("format")
    @classmethod
    def _check(cls, form: Any) -> Any:
        schema_of(form)
        return form


class DummySource(Source):
    """Sends made-up inputs, for a first try and for load: `DummySource(format={"input": int}, rate=10)`."""

    parameters = DummyParameters
    params: DummyParameters

    def __init__(self, params: DummyParameters | None = None, *, format: Any = None, **values: Any) -> None:
        """Take the parameters, or their values, or parameters and a format. Raises ValueError."""
        if params is not None and format is not None:
            schema_of(format)
            params = params.model_copy(update={"format": format})
        elif format is not None:
            values["format"] = format
        super().__init__(params, **values)
        self._schema = schema_of(self.params.format)
        self._chance = random.Random(self.params.seed)
        self._sent = 0

    async def read(self) -> AsyncIterator[Any]:
        while self.params.count is None or self._sent < self.params.count:
            self._sent += 1
            yield sample(self._schema, self._chance)
