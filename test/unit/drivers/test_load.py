"""From the name of a driver's class to the driver, and from a callable to its name."""

from collections.abc import Callable

import pytest

from runtime.drivers.load import check_callable, importable_name, load, make_driver
from runtime.errors import DriverStartError, InvalidParametersError
from runtime.spec.driver import DriverSpec
from test.support import sample_drivers
from test.support.sample_drivers import Waits

MODULE = "test.support.sample_drivers"


def closure() -> Callable[[], object]:
    def make() -> object:
        return Waits()

    return make


def spec(**values: object) -> DriverSpec:
    given = {"ref": "a", "driver": f"{MODULE}:Waits", "workflow": "echo", "stream": "test_v1_echo", **values}
    return DriverSpec.model_validate(given)


def test_a_class_is_found_by_module_and_name() -> None:
    assert load(f"{MODULE}:Waits") is Waits
    assert load(f"{MODULE}:Waits.stop") is Waits.stop


@pytest.mark.parametrize(
    ("driver", "text"),
    [
        ("ftp", 'there is no driver class "ftp"; use one of http, grpc, source-sink, or "module:attr"'),
        ("nowhere:Driver", "cannot be imported: ModuleNotFoundError"),
        (f"{MODULE}:Nothing", "cannot be imported: AttributeError"),
        (f"{MODULE}:__name__", "is no callable that returns a driver, but str"),
    ],
)
def test_a_class_that_is_not_there_is_refused_by_name(driver: str, text: str) -> None:
    with pytest.raises(DriverStartError, match=text):
        load(driver)


def test_a_callable_is_named_so_that_it_is_found_again() -> None:
    assert load(importable_name(Waits)) is Waits
    assert load(importable_name(sample_drivers.make_waits)) is sample_drivers.make_waits


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Waits(), "a lambda has no name"),
        (closure(), "closure.<locals>.make exists only inside a function"),
        (Waits().run, "Waits.run is bound to an instance"),
    ],
)
def test_a_callable_that_another_process_cannot_import_is_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(DriverStartError, match=text):
        importable_name(make)


def test_a_driver_that_is_made_already_is_refused() -> None:
    with pytest.raises(DriverStartError, match="only the runtime makes drivers"):
        check_callable(Waits())
    with pytest.raises(DriverStartError, match="int is no callable"):
        check_callable(3)


def test_parameters_go_to_the_callable_first_and_the_rest_is_set() -> None:
    driver = make_driver(spec(parameters={"factor": 2.0, "label": "left"}))

    assert driver.get_parameters() == sample_drivers.WaitsParameters(factor=2.0, label="left")


def test_arguments_win_over_parameters_and_positions_are_kept() -> None:
    assert make_driver(spec(args=[4.0])).get_parameters() == sample_drivers.WaitsParameters(factor=4.0)
    assert make_driver(spec(arguments={"factor": 5.0})).get_parameters() == sample_drivers.WaitsParameters(factor=5.0)


def test_a_parameter_that_nobody_takes_is_refused() -> None:
    with pytest.raises(InvalidParametersError, match="size: there is no such parameter"):
        make_driver(spec(parameters={"size": 1}))
