"""Checks of values by JSON Schema: as the reference validator decides, with every fault in words."""

import dataclasses
import enum
from decimal import Decimal
from typing import Annotated, Any, Literal

import jsonschema
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.spec.schema_check import Fault, SchemaCheck


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, pydantic.Field(ge=0, le=9)]


class Dog(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    kind: Literal["dog"]
    name: Annotated[str, pydantic.Field(min_length=1, max_length=5, pattern="^[a-z]+$")]


class Tree(pydantic.BaseModel):
    label: str
    children: list["Tree"] = []


@dataclasses.dataclass
class Order:
    price: Decimal
    colour: Colour
    place: tuple[int, str]
    weight: Annotated[float, pydantic.Field(gt=0, multiple_of=0.5)] | None = None


ANNOTATIONS: list[Any] = [
    int,
    float,
    str,
    bool,
    Colour,
    set[int],
    dict[str, int],
    dict[Colour, float],
    list[Order],
    Tree,
    Annotated[Cat | Dog, pydantic.Field(discriminator="kind")],
    Cat | list[Dog] | None,
    Annotated[list[int], pydantic.Field(min_length=1, max_length=2)],
]
SCHEMAS = [pydantic.TypeAdapter(annotation).json_schema() for annotation in ANNOTATIONS]

KEYS = st.sampled_from(
    ["kind", "lives", "name", "label", "children", "price", "colour", "place", "weight", "red", "other"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 12)
    | st.floats(-2, 12)
    | st.sampled_from(["cat", "dog", "red", "blue", "rex", "", "toolong", "1.5"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=12
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SCHEMAS), VALUES)
def test_a_value_fits_whenever_the_reference_validator_says_so(schema: dict[str, Any], value: Any) -> None:
    expected = jsonschema.Draft202012Validator(schema).is_valid(value)

    assert (SchemaCheck(schema).faults(value) == []) is expected


@pytest.mark.parametrize(
    ("annotation", "value", "faults"),
    [
        (int, "5", [("", "is text; give a whole number")]),
        (int, True, [("", "is true or false; give a whole number")]),
        (Tree, {"children": [{"label": 3}, {}]}, [
            ("label", "is missing"),
            ("children.0.label", "is a whole number; give text"),
            ("children.1.label", "is missing"),
        ]),
        (Dog, {"kind": "dog", "name": "Bob", "age": 3}, [
            ("name", "does not match ^[a-z]+$"),
            ("age", "is unknown; known: kind, name"),
        ]),
        (Cat | None, {"kind": "cat", "lives": 10}, [("lives", "is above 9")]),
        (int | str, None, [("", "is nothing; give a whole number or text")]),
        (Colour, "green", [("", "is none of 'red', 'blue'")]),
    ],
)  # fmt: skip
def test_every_fault_is_told_by_its_field(annotation: Any, value: Any, faults: list[tuple[str, str]]) -> None:
    check = SchemaCheck(pydantic.TypeAdapter(annotation).json_schema())

    assert check.faults(value) == [Fault(*fault) for fault in faults]


def test_an_empty_schema_takes_everything() -> None:
    check = SchemaCheck({})

    assert check.faults({"any": [None, 1]}) == []
