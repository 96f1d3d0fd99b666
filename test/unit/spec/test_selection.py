"""What fits the conditions of `when`: equality as JSON has it, and nothing else."""

from typing import Any

import pytest

from runtime.spec.selection import NO_CONDITIONS, Conditions, JsonScalar, SelectionSpec


def of_n(*values: JsonScalar) -> Conditions:
    return Conditions(fields={"n": values})


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(1, 1.0), (1.0, 1), (-0.0, 0), ("1", "1"), ("", ""), (True, True), (False, False), (None, None)],
)
def test_values_that_json_calls_equal_fit(value: Any, wanted: JsonScalar) -> None:
    assert of_n("other", wanted).unfit_field({"n": value}) == ""


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("1", 1),
        (1, "1"),
        (True, 1),
        (1, True),
        (0, False),
        (False, 0.0),
        (None, 0),
        (None, "null"),
        ("", None),
        ("Cat", "cat"),
        (["cat"], "cat"),
        ({"cat": "cat"}, "cat"),
    ],
)
def test_values_that_json_tells_apart_do_not_fit(value: Any, wanted: JsonScalar) -> None:
    assert of_n("other", wanted).unfit_field({"n": value}) == "field 'n'"


@pytest.mark.parametrize("data", [None, 1, "n", ["n"], [{"n": 1}], {}, {"m": 1}])
def test_a_field_that_is_not_there_fits_nothing_not_even_null(data: Any) -> None:
    assert of_n(None, 1).unfit_field(data) == "field 'n'"


def test_paths_lead_into_objects_alone() -> None:
    inner = Conditions(fields={"meta.camera": ("gate-3",)})

    assert inner.unfit_field({"meta": {"camera": "gate-3"}}) == ""
    for data in ({"meta": [{"camera": "gate-3"}]}, {"meta.camera": "gate-3"}, {"meta": "camera"}, {"camera": "gate-3"}):
        assert inner.unfit_field(data) == "field 'meta.camera'"


def test_the_first_that_does_not_fit_is_told() -> None:
    conditions = Conditions(headers={"kind": ("scan",), "lang": ("de",)}, fields={"a": (1,), "b": (1,), "c": (1,)})

    assert conditions.unfit_header({"kind": "scan"}) == "header 'lang'"
    assert conditions.unfit_field({"a": 1, "b": 2}) == "field 'b'"


def test_a_stream_tells_values_as_they_are() -> None:
    told = SelectionSpec(nodes={"ocr": {"s.clean": of_n("1", 1, 1.5, True, None)}})

    read = SelectionSpec.model_validate_json(told.model_dump_json())

    values = read.conditions("ocr", "s.clean.p3").fields["n"]
    assert [(type(value), value) for value in values] == [
        (str, "1"), (int, 1), (float, 1.5), (bool, True), (type(None), None)
    ]  # fmt: skip
    assert read.conditions("ocr", "s.other") == read.conditions("other", "s.clean") == NO_CONDITIONS
