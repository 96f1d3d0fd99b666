"""Parameters of a driver as JSON and back: read as plain values, checked by pydantic before the driver sees them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pydantic

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


def names_of(parameters: Any) -> list[str]:
    """Return the names of the parameters, in the order of the class."""
    if isinstance(parameters, pydantic.BaseModel):
        return list(type(parameters).model_fields)
    return [each.name for each in dataclasses.fields(parameters) if each.init]


def _invalid(faults: list[str], known: list[str]) -> InvalidParametersError:
    return InvalidParametersError(f"{'; '.join(faults)} (the parameters are {', '.join(known) or 'none'})")
