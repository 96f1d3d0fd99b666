"""`krt driver docs`: what drivers, sources and sinks do, and what they take, printed from their classes."""

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any

import typer

from runtime import errors


def docs(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Word of a class, or module:Class; all words by default.")
    ] = "",
) -> None:
    """Print the documentation of a driver, source or sink, or the words of all that are built in.

    Exit codes: 0 printed, 2 there is none of this name, or it cannot be imported.

    Example: krt driver docs source-sink
    """
    if not name:
        typer.echo("\n".join(_words()))
        return
    # A class of the user's lies in the current folder.
    sys.path.insert(0, "")
    found = list(_described(name))
    if not found:
        known = ", ".join(line.partition(":")[2].strip() for line in _words())
        raise errors.ConfigError(f'there is no driver, source or sink "{name}"; use one of {known}, or module:Class')
    typer.echo("\n\n".join(found))


def _words() -> Iterator[str]:
    from runtime.drivers.components import SINKS, SOURCES
    from runtime.drivers.load import BUILT_IN

    yield f"drivers:  {', '.join(BUILT_IN)}"
    yield f"sources:  {', '.join(SOURCES)}"
    yield f"sinks:    {', '.join(SINKS)}"


def _described(name: str) -> Iterator[str]:
    """Yield the text of everything that is called so: one word may name a driver, a source and a sink."""
    from runtime.drivers.components import SINK, SINKS, SOURCE, SOURCES, describe, find_class
    from runtime.drivers.load import BUILT_IN, load
    from runtime.spec.driver import driver_class

    if driver_class(name) in BUILT_IN or ":" in name:
        try:
            yield describe_driver(name, load(driver_class(name)))
        except errors.DriverStartError as error:
            raise errors.ConfigError(str(error)) from error
    if name in SOURCES:
        yield f"Source\n\n{describe(name, find_class(name, SOURCE, SOURCES))}"
    if name in SINKS:
        yield f"Sink\n\n{describe(name, find_class(name, SINK, SINKS))}"


def describe_driver(name: str, make: Callable[..., object]) -> str:
    """Return the documentation of a driver: of its class, its arguments, and its parameters, as Markdown."""
    from runtime.drivers.load import parameters_class

    parts = [f"### {name}", inspect.getdoc(make) or ""]
    arguments = [each for each in inspect.signature(make).parameters.values() if each.name not in ("self", "args")]
    if arguments:
        parts += ["Arguments:", _table((each.name, each.default) for each in arguments)]
        parts += [inspect.getdoc(make.__init__) or ""] if inspect.isclass(make) else []
    parameters = parameters_class(make)
    if is_dataclass(parameters) and fields(parameters):
        parts += ["Parameters:", _table((each.name, _default(each)) for each in fields(parameters))]
        parts += [inspect.getdoc(parameters) or ""]
    return "\n\n".join(part for part in parts if part)


def _default(field: Any) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is MISSING else field.default


def _table(rows: Any) -> str:
    lines = [
        f"| {name} | {'required' if value is inspect.Parameter.empty else f'`{value!r}`'} |" for name, value in rows
    ]
    return "\n".join(["| name | default |", "|---|---|", *lines])
