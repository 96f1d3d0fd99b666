"""Finds the class of a model: a concrete subclass of the coordinator's base class, defined under the code folder.

Runs in the model's process, for it imports the user's modules. Nothing is instantiated here.
"""

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from runtime.models.wire import StatusCode
from runtime.module_files import import_file

log = logging.getLogger(__name__)

# Folders that hold nobody's own code, besides hidden ones and virtual environments.
PASSED_OVER = frozenset({"__pycache__", "node_modules"})
# The file that marks a virtual environment (PEP 405).
VENV_MARK = "pyvenv.cfg"
# Modules that are run, not imported.
NOT_IMPORTED = frozenset({"__main__.py"})
# Import errors that are named where no class is found.
NAMED_ERRORS = 5

# What the user's code raises; `sys.exit`, cancellations and panics of Rust libraries are no reason to end the process.
USER_FAILURES = BaseException


class RefusedError(Exception):
    """A request to a model cannot be fulfilled. code: of the answer's status; the message is its text."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def import_base(class_name: str) -> type[Any]:
    """Return the class of `package.module.Class`. Raises RefusedError."""
    module_name, _, name = class_name.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in class_name.split(".")):
        raise RefusedError(
            StatusCode.INVALID_ARGUMENT, f'"{class_name}" is no class name; write package.module.Class, with dots'
        )
    try:
        base = getattr(importlib.import_module(module_name), name)
    except USER_FAILURES as error:
        raise _bad(f"the base class {class_name} cannot be imported: {describe(error)}") from error
    if not inspect.isclass(base):
        raise _bad(f"{class_name} is no class, but {type(base).__name__}")
    return base


def find_class(base: type[Any], code: Path, class_name: str = "") -> type[Any]:
    """Return the model's class. Raises RefusedError (BAD_IMPLEMENTATION).

    code: a folder that is in `sys.path`. class_name: `module:Name` of the class to take, "" to search for it.
    """
    if class_name:
        return _named(base, class_name)
    modules, failures = _import_all(code)
    found = _candidates(base, modules, code)
    if not found:
        raise _bad(_not_found(base, code, failures))
    first, *others = found
    if others:
        log.warning("%s is taken; passed over: %s", full_name(first), ", ".join(map(full_name, others)))
    return first


def full_name(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def describe(error: BaseException) -> str:
    """Return class and text of what user code has raised."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its own __str__ has failed
        return type(error).__name__


def _named(base: type[Any], class_name: str) -> type[Any]:
    module_name, _, name = class_name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except USER_FAILURES as error:
        raise _bad(f"the class {class_name} cannot be imported: {describe(error)}") from error
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise _bad(f"{class_name} is no subclass of {full_name(base)}")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(vars(found)["__abstractmethods__"]))
        raise _bad(f"{class_name} is abstract; it lacks {missing}")
    return found


def _import_all(code: Path) -> tuple[list[ModuleType], list[str]]:
    """Import every module under the folder, in the order of their paths; return them, and what went wrong."""
    modules: list[ModuleType] = []
    failures: list[str] = []
    for path in sorted(_python_files(code)):
        try:
            modules.append(_import(path, code))
        except USER_FAILURES as error:
            failures.append(f"{path.relative_to(code)}: {describe(error)}")
    return modules, failures


def _python_files(code: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(code):
        folders[:] = [name for name in folders if not _is_passed_over(Path(folder, name))]
        yield from (Path(folder, name) for name in files if name.endswith(".py") and name not in NOT_IMPORTED)


def _is_passed_over(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name in PASSED_OVER or (folder / VENV_MARK).exists()


def _import(path: Path, code: Path) -> ModuleType:
    name = ".".join(path.relative_to(code).with_suffix("").parts).removesuffix(".__init__")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):  # one that it imports itself
            raise
    else:
        if _file_of(module) == path.resolve():
            return module
    # Its name is taken, or no name of a module.
    return import_file(path, f"krt_model_{name}")


def _candidates(base: type[Any], modules: list[ModuleType], code: Path) -> list[type[Any]]:
    """Return what may be the model, in the order in which it was found."""
    own = [kind for module in modules for kind in vars(module).values() if _is_model(kind, base, code)]
    distinct = list(dict.fromkeys(own))
    return [kind for kind in distinct if not any(other is not kind and issubclass(other, kind) for other in distinct)]


def _is_model(kind: Any, base: type[Any], code: Path) -> bool:
    return (
        inspect.isclass(kind)
        and issubclass(kind, base)
        and kind is not base
        and not inspect.isabstract(kind)
        and kind.__module__.partition(".")[0] != base.__module__.partition(".")[0]
        and _is_under(kind, code)
    )


def _is_under(kind: type[Any], code: Path) -> bool:
    file = _file_of(sys.modules.get(kind.__module__))
    return file is not None and file.is_relative_to(code.resolve())


def _file_of(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file else None


def _not_found(base: type[Any], code: Path, failures: list[str]) -> str:
    text = f"no concrete subclass of {full_name(base)} is defined in the code folder {code.name}"
    if not failures:
        return text
    more = f"; and {len(failures) - NAMED_ERRORS} more" if len(failures) > NAMED_ERRORS else ""
    return f"{text}; modules that cannot be imported: {'; '.join(failures[:NAMED_ERRORS])}{more}"


def _bad(message: str) -> RefusedError:
    return RefusedError(StatusCode.BAD_IMPLEMENTATION, message)
