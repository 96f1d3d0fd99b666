"""Parameters of drivers: dataclasses and pydantic models, from JSON and back."""

from dataclasses import dataclass, field

import pydantic
import pytest

from runtime.drivers.base import DriverParameters
from runtime.drivers.parameters import ParameterValues, changed, plain, values_of
from runtime.errors import InvalidParametersError


@dataclass
class Limits(DriverParameters):
    rate: float = 10.0
    labels: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError("rate is not above 0")


class Model(pydantic.BaseModel):
    task_ttl: float = pydantic.Field(default=60.0, gt=0)


def test_values_are_those_of_json() -> None:
    assert values_of(Limits(labels=["a"])) == {"rate": 10.0, "labels": ["a"]}
    assert values_of(Model()) == {"task_ttl": 60.0}


def test_changing_some_values_makes_new_parameters_and_keeps_the_others() -> None:
    old = Limits(rate=5.0, labels=["a"])

    new = changed(old, {"labels": ["b"]})

    assert (old, new) == (Limits(rate=5.0, labels=["a"]), Limits(rate=5.0, labels=["b"]))


def test_text_of_a_command_line_is_read_as_the_type_of_the_field() -> None:
    assert changed(Model(), {"task_ttl": "2.5"}) == Model(task_ttl=2.5)


@pytest.mark.parametrize(
    ("parameters", "values", "text"),
    [
        (Limits(), {"rate": "fast"}, "rate: Input should be a valid number"),
        (Limits(), {"rate": 0}, "rate is not above 0"),
        (Limits(), {"speed": 1}, r"speed: there is no such parameter \(the parameters are rate, labels\)"),
        (Model(), {"task_ttl": -1}, "task_ttl: Input should be greater than 0"),
        (DriverParameters(), {"x": 1}, r"x: there is no such parameter \(the parameters are none\)"),
    ],
)
def test_every_wrong_value_is_refused_by_name(parameters: object, values: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidParametersError, match=text):
        changed(parameters, values)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidParametersError) as caught:
        changed(Limits(), {"rate": "fast", "labels": 3, "speed": 1})

    assert all(f"{name}: " in str(caught.value) for name in ("rate", "labels", "speed"))


def test_the_values_of_a_handle_are_attributes() -> None:
    values = ParameterValues({"task_ttl": 60.0, "cors": False})

    values.task_ttl = 10

    assert repr(values) == "Parameters(task_ttl=10, cors=False)"
    assert plain(values) == {"task_ttl": 10, "cors": False}
    assert values == ParameterValues({"task_ttl": 10, "cors": False})
    with pytest.raises(AttributeError, match="there are: task_ttl, cors"):
        _ = values.ttl
    with pytest.raises(AttributeError, match="there is no parameter ttl"):
        values.ttl = 5


def test_parameters_are_given_in_any_form() -> None:
    assert plain({"a": 1}) == {"a": 1}
    assert plain(Model()) == {"task_ttl": 60.0}
