"""Parameters of a driver as JSON and back: read as plain values, checked by pydantic before the driver sees them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pydantic

from runtime.drivers.base import PipelineDriver
from runtime.errors import InvalidParametersError


def values_of(parameters: Any) -> dict[str, Any]:
    """Return the values of a dataclass or pydantic model by name, as JSON has them."""
    values: dict[str, Any] = pydantic.TypeAdapter(type(parameters)).dump_python(parameters, mode="json")
    return values


def changed(parameters: Any, values: Mapping[str, Any]) -> Any:
    """Return new parameters of the same class in which `values` have taken the place of those of the same name.

    Raises InvalidParametersError with every unknown name and every wrong value.
    """
    known = names_of(parameters)
    unknown = [f"{name}: there is no such parameter" for name in values if name not in known]
    try:
        made = pydantic.TypeAdapter(type(parameters)).validate_python(
            {**values_of(parameters), **{name: value for name, value in values.items() if name in known}}
        )
    except pydantic.ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'all'}: {fault['msg']}" for fault in error.errors()]
        raise _invalid([*unknown, *faults], known) from error
    if unknown:
        raise _invalid(unknown, known)
    return made


def set_values(driver: PipelineDriver, values: Mapping[str, Any]) -> dict[str, Any]:
    """Set some parameters of a driver, and return all. Raises InvalidParametersError; then the old ones stay."""
    wanted = changed(driver.get_parameters(), values)
    try:
        driver.set_parameters(wanted)
    except Exception as error:  # the driver's own check; whatever it raises, it has refused
        raise InvalidParametersError(str(error) or repr(error)) from error
    return values_of(driver.get_parameters())


def names_of(parameters: Any) -> list[str]:
    """Return the names of the parameters, in the order of the class."""
    if isinstance(parameters, pydantic.BaseModel):
        return list(type(parameters).model_fields)
    return [each.name for each in dataclasses.fields(parameters) if each.init]


def _invalid(faults: list[str], known: list[str]) -> InvalidParametersError:
    return InvalidParametersError(f"{'; '.join(faults)} (the parameters are {', '.join(known) or 'none'})")


class ParameterValues:
    """Parameters as a handle gives them: attributes to read and to change, which may come from another machine.

    p = handle.get_parameters(); p.task_ttl = 10; handle.set_parameters(p)
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __repr__(self) -> str:
        return f"Parameters({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParameterValues) and vars(self) == vars(other)

    def __getattr__(self, name: str) -> Any:
        raise self._unknown(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in vars(self):
            raise self._unknown(name)
        vars(self)[name] = value

    def _unknown(self, name: str) -> AttributeError:
        return AttributeError(f"there is no parameter {name}; there are: {', '.join(vars(self)) or 'none'}")


def plain(parameters: Any) -> dict[str, Any]:
    """Return the values of parameters in any form: of a handle, of a driver's class, or a mapping."""
    if isinstance(parameters, ParameterValues):
        return dict(vars(parameters))
    return dict(parameters) if isinstance(parameters, Mapping) else values_of(parameters)
