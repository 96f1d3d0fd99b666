"""Spares commands pydantic: typer 0.29 makes an adapter of it for every parameter, whether it is given or not.

That takes a tenth of a second, more than most commands need for what they do. Here what is a text already, or is not
given, is taken as it is, and a number in digits is read; all else is left to typer, with its messages. What is replaced
is no public method: a typer that has none of this name is left alone, and `test/unit/cli/test_imports.py` tells when
this does not help any more.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from typer.core import TyperArgument, TyperOption


def spare_pydantic() -> None:
    """Let all commands of this process take plain values as they are."""
    for kind in (TyperOption, TyperArgument):
        make = getattr(kind, "get_runtime_param", None)
        if make is not None:
            kind.get_runtime_param = _plain_first(make)  # type: ignore[assignment, method-assign]


def _plain_first(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda parameter: _PlainFirst(make)


@dataclass(frozen=True, slots=True)
class _PlainFirst:
    """What typer asks for the value of a parameter. make: returns what it would have asked."""

    make: Callable[[Any], Any]

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Called by typer with what was given, else with the default."""
        descriptor = param.type_descriptor
        kind, is_one = descriptor.annotation, param.nargs == 1 and not param.multiple
        if is_one and (value is None or (kind in (str, int) and type(value) is kind)):
            return value
        if is_one and kind is int and _is_number(value, descriptor.parameter_info):
            return int(value)
        return self.make(param).coerce(value, param=param, ctx=ctx)


def _is_number(text: str, bounds: Any) -> bool:
    """Say whether the text is digits, and within the bounds of the parameter."""
    if not (text.isascii() and text.isdecimal()):
        return False
    low, high = (-math.inf if bounds.min is None else bounds.min), (math.inf if bounds.max is None else bounds.max)
    return bool(low <= int(text) <= high)
