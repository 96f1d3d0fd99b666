"""From the name of a driver's class to the callable that makes it, and back."""

import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from runtime.drivers.base import PipelineDriver
from runtime.drivers.parameters import names_of, set_values
from runtime.errors import DriverStartError
from runtime.spec.driver import DriverSpec

# The parameter that is set to the `timeout` of the workflow file, in drivers that have one of this name.
TIMEOUT = "timeout"

# Drivers that come with the runtime, by the word of the workflow file; each loads its libraries when it is named.
BUILT_IN: Mapping[str, str] = {
    "http": "runtime.drivers.fastapi_driver:FastAPIDriver",
    "grpc": "runtime.drivers.grpc_driver:GRPCDriver",
    "source-sink": "runtime.drivers.source_sink:SourceSinkDriver",
}


def load(driver: str) -> Callable[..., object]:
    """Return the callable of `http` and so on, or of `module:attr`. Raises DriverStartError."""
    module_name, colon, path = BUILT_IN.get(driver, driver).partition(":")
    if not colon:
        known = ", ".join(BUILT_IN)
        raise DriverStartError(f'there is no driver class "{driver}"; use one of {known}, or "module:attr"')
    try:
        found: Any = importlib.import_module(module_name)
        for name in path.split("."):
            found = getattr(found, name)
    except Exception as error:  # importing runs the user's code
        raise DriverStartError(f'the driver class "{driver}" cannot be imported: {error!r}') from error
    if not callable(found):
        raise DriverStartError(f'"{driver}" is no callable that returns a driver, but {type(found).__name__}')
    result: Callable[..., object] = found
    return result


def importable_name(make: Callable[..., object]) -> str:
    """Return the `module:attr` under which another process finds the callable.

    Raises DriverStartError, with the reason, for one that it cannot find: a lambda, a closure, an instance.
    """
    module, path = getattr(make, "__module__", ""), getattr(make, "__qualname__", "")
    reason = ""
    if not module or not path:
        reason = f"an instance of {type(make).__name__} has no name"
    elif inspect.ismethod(make) and not isinstance(make.__self__, type):
        reason = f"{path} is bound to an instance"
    elif "<lambda>" in path:
        reason = "a lambda has no name"
    elif "<locals>" in path:
        reason = f"{path} exists only inside a function"
    elif module == "__main__":
        reason = f"{path} belongs to the script that was started, which no other process can import"
    if reason:
        raise DriverStartError(
            f"the driver runs in a process of its own, which cannot import its callable: {reason}; "
            "give a class or a function at the top of a module"
        )
    return f"{module}:{path}"


def name_of(make: Callable[..., object]) -> str:
    """Return how a callable is shown."""
    return getattr(make, "__qualname__", type(make).__name__)


def check_callable(make: object) -> None:
    """Raise DriverStartError for what is no callable, and for a driver that is made already."""
    if isinstance(make, PipelineDriver):
        raise DriverStartError(f"give the class {type(make).__name__} or a function: only the runtime makes drivers")
    if not callable(make):
        raise DriverStartError(f"{type(make).__name__} is no callable that returns a driver")


def make_driver(spec: DriverSpec) -> PipelineDriver:
    """Make the driver of a spec, and set its parameters. Blocks.

    Raises DriverStartError, InvalidParametersError, and whatever the driver's own code raises.
    """
    make = load(spec.driver)
    arguments, rest = _split(make, spec.parameters)
    driver = checked_driver(make(*spec.args, **{**arguments, **spec.arguments}))
    if spec.timeout_s is not None and TIMEOUT in names_of(driver.get_parameters()):
        rest = {TIMEOUT: spec.timeout_s, **rest}
    if rest:
        set_values(driver, rest)
    return driver


def checked_driver(made: object) -> PipelineDriver:
    """Return what a callable has returned. Raises DriverStartError unless it is a driver."""
    if not isinstance(made, PipelineDriver):
        raise DriverStartError(f"the callable returned {type(made).__name__}, which is no PipelineDriver")
    return made


def parameters_class(make: Callable[..., object]) -> type | None:
    """Return the class of a driver's parameters, as far as its `get_parameters` says it."""
    try:
        annotated = typing.get_type_hints(getattr(make, "get_parameters", None)).get("return")
    except Exception:  # there is no such method, or its annotations are the user's code and cannot be read
        return None
    return annotated if isinstance(annotated, type) else None


def _split(make: Callable[..., object], parameters: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters that the callable names as arguments, and the others."""
    try:
        named = inspect.signature(make).parameters
    except ValueError:  # a callable made in C says nothing about itself
        return {}, dict(parameters)
    arguments = {name: value for name, value in parameters.items() if name in named}
    return arguments, {name: value for name, value in parameters.items() if name not in named}
