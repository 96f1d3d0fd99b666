"""The child process of `krt check` that imports one driver: `python -m runtime.cli.driver_probe FOLDER < request`.

Prints what is wrong with what the workflow file gives the driver, as JSON. A process of its own, because importing runs
the user's code, as in `cli/probe.py`.
"""

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

from pydantic import TypeAdapter

from runtime.drivers.base import PipelineDriver
from runtime.drivers.load import load, parameters_class
from runtime.drivers.parameters import changed, names_of
from runtime.errors import DriverStartError, InvalidParametersError
from runtime.spec.drivers import OPTIONS
from runtime.spec.model import Driver
from runtime.spec.node import Frozen


class DriverFinding(Frozen):
    """One thing that is wrong. path: the keys below the driver that lead to it."""

    path: tuple[str, ...]
    what: str
    code: Literal["driver-import", "driver-value"] = "driver-value"


FINDINGS = TypeAdapter(list[DriverFinding])


def probe(driver: Driver) -> list[DriverFinding]:
    """Import a driver's class and return everything that is wrong with its values."""
    try:
        make = load(driver.type)
    except DriverStartError as error:
        return [DriverFinding(path=("class",), what=str(error), code="driver-import")]
    faults = [*_argument_faults(make, driver), *_parameter_faults(make, driver)]
    # A class that checks values may count on their names.
    return faults or list(_own_faults(make, driver))


def _argument_faults(make: Callable[..., object], driver: Driver) -> Iterator[DriverFinding]:
    known = inspect.signature(make).parameters
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values())
    for name in driver.arguments:
        if name not in known and not takes_any:
            takes = ", ".join(known) or "none"
            yield DriverFinding(path=_path_of(name), what=f'there is no argument "{name}"; there are: {takes}')
    given = {*driver.arguments, *driver.parameters}
    if missing := [name for name, each in known.items() if _is_required(each) and name not in given]:
        shown = ", ".join(".".join(_path_of(name)) for name in missing)
        yield DriverFinding(path=(), what=f"the class needs {', '.join(missing)}; add {shown}")


def _is_required(parameter: inspect.Parameter) -> bool:
    by_name = (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    return parameter.default is inspect.Parameter.empty and parameter.kind in by_name


def _path_of(argument: str) -> tuple[str, ...]:
    return (argument,) if argument in OPTIONS else ("args", argument)


def _parameter_faults(make: Callable[..., object], driver: Driver) -> Iterator[DriverFinding]:
    """Yield what is wrong with the parameters that are set on the driver once it is made."""
    try:
        defaults = (parameters_class(make) or (lambda: None))()
        known = names_of(defaults)
    except Exception:  # they are made by the driver in a way of its own, and checked when it starts
        return
    arguments = inspect.signature(make).parameters
    for name, value in driver.parameters.items():
        if name in arguments:
            continue
        if name not in known:
            what = f'there is no parameter "{name}"; there are: {", ".join(known) or "none"}'
            yield DriverFinding(path=("parameters", name), what=what)
            continue
        try:
            changed(defaults, {name: value})
        except InvalidParametersError as error:
            what = str(error).partition(" (the parameters are")[0].partition(": ")[2]
            yield DriverFinding(path=("parameters", name), what=what.removeprefix("Value error, "))


def _own_faults(make: Callable[..., object], driver: Driver) -> Iterator[DriverFinding]:
    if not (isinstance(make, type) and issubclass(make, PipelineDriver)):
        return
    try:
        problems = list(make.check({**driver.parameters, **driver.arguments}))
    except Exception as error:  # the class did not expect such values
        yield DriverFinding(path=(), what=f"its values cannot be checked: {error!r}")
        return
    for problem in problems:
        yield DriverFinding(path=_placed(problem.path, driver), what=problem.what)


def _placed(path: tuple[str, ...], driver: Driver) -> tuple[str, ...]:
    """Return the path of a value below the driver: the class does not know where the file has it."""
    if not path:
        return path
    return ("parameters", *path) if path[0] in driver.parameters else (*_path_of(path[0]), *path[1:])


def main() -> None:
    """Probe the driver of the standard input; the answer goes to what was the standard output."""
    # The user's module may print: its output goes where errors go, and the answer stays alone.
    answer = os.dup(1)
    os.dup2(2, 1)
    driver = Driver.model_validate_json(sys.stdin.buffer.read())
    os.chdir(sys.argv[1])
    sys.path.insert(0, sys.argv[1])
    findings: Any = probe(driver)
    with open(answer, "wb") as opened:
        opened.write(FINDINGS.dump_json(findings))
    sys.stderr.flush()
    # Threads that the module has started would keep the process alive.
    os._exit(0)


if __name__ == "__main__":
    main()
