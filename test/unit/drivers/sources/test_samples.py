"""Made-up inputs: of every kind of format, within its limits, and the same for the same seed."""

import random
from dataclasses import dataclass
from typing import Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field

from runtime.drivers.sources.dummy import DummySource
from runtime.drivers.sources.samples import sample, schema_of


class Point(BaseModel):
    x: float = Field(ge=0, lt=10)
    label: Literal["a", "b"]


@dataclass
class Shape:
    points: list[Point]
    name: str | None
    open: bool = False


FORMATS: list[Any] = [
    int,
    {"n": int, "text": str, "flag": bool, "ratio": float},
    {"input": "integer", "type": "string"},
    Shape,
    {"shape": Shape},
    {"type": "object", "properties": {"n": {"type": "integer", "minimum": -5, "maximum": -3}}},
    {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    {"enum": ["red", "green"]},
]


@pytest.mark.parametrize("form", FORMATS)
def test_a_sample_fits_its_format(form: Any) -> None:
    schema = schema_of(form)
    chance = random.Random(1)

    for _ in range(50):
        jsonschema.validate(sample(schema, chance), schema)


def test_what_is_no_format_is_refused() -> None:
    with pytest.raises(ValueError, match='"int" is no type; use one of integer'):
        DummySource(format={"n": "int"})
    with pytest.raises(ValueError, match="nothing can be made"):
        schema_of(object())


def test_the_same_seed_gives_the_same_inputs() -> None:
    schema = schema_of({"n": int, "text": str})

    first, second, other = ([sample(schema, random.Random(seed)) for _ in range(3)] for seed in (1, 1, 2))

    assert first == second != other


def test_a_format_may_stand_beside_parameters() -> None:
    source = DummySource(format={"input": int}, params=DummySource.parameters(rate=10))

    assert (source.params.rate, source.params.format) == (10, {"input": int})
