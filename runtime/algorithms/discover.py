"""From an adapter module to the algorithms that it offers: found by inspection, described, checked. Start here.

    offer = discover("runner_adapter")       # a module, a file, or a folder that holds runner_adapter.py
    offer.names; offer.schemas()             # {name: JSON Schema of its request}; nothing is connected

An algorithm is a function defined in the adapter and named `run_<identifier>`. Serving it is `service.py`'s.
"""

import importlib
import inspect
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from runtime.algorithms.signatures import Signature, SignatureError, schema_hash, signature_of
from runtime.durations import duration_s
from runtime.errors import AdapterError
from runtime.module_files import import_file
from runtime.spec import names
from runtime.spec.type_schema import JsonSchema

log = logging.getLogger(__name__)

DEFAULT_ADAPTER = "runner_adapter"
PREFIX = "run_"
# Version of an adapter that has no `__version__`.
NO_VERSION = "0.0.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """An algorithm as others see it; JSON can hold it.

    doc: first paragraph of its documentation. version: of the adapter. response: None where results are not hinted.
    hash: see `signatures.schema_hash`. timeout_s, concurrency: its own, None for those of the runner.
    """

    name: str
    doc: str
    version: str
    request: JsonSchema
    response: JsonSchema | None
    hash: str
    timeout_s: float | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """A function with its description and its signature."""

    function: Callable[..., Any]
    signature: Signature
    description: Description

    @property
    def is_async(self) -> bool:
        """Whether it is to be called on the event loop."""
        return inspect.iscoroutinefunction(self.function)


@dataclass(frozen=True, slots=True)
class Offer:
    """What an adapter offers, by name and in the order of the names."""

    algorithms: Mapping[str, Algorithm]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.algorithms)

    @property
    def descriptions(self) -> tuple[Description, ...]:
        return tuple(algorithm.description for algorithm in self.algorithms.values())

    def schemas(self) -> dict[str, JsonSchema]:
        """Return the JSON Schema of every request."""
        return {name: algorithm.signature.request for name, algorithm in self.algorithms.items()}


def discover(adapter: str = DEFAULT_ADAPTER) -> Offer:
    """Import an adapter and describe its algorithms; the adapter's folder becomes the first entry of `sys.path`.

    Raises AdapterError with every fault: it does not import, has no algorithm, or one that cannot be served.
    """
    module = _import(adapter)
    version = str(getattr(module, "__version__", NO_VERSION))
    algorithms, faults = {}, []
    for name, function in _functions(module):
        try:
            algorithms[name] = _algorithm(name, function, version)
        except SignatureError as error:
            faults += [f"{_place(function)}: {PREFIX}{name}: {fault}" for fault in error.faults]
    if not algorithms and not faults:
        faults = [f"{_file(module)} has no algorithm; define a function named {PREFIX}<name> in it"]
    if faults:
        raise AdapterError(faults)
    return Offer(MappingProxyType(algorithms))


# --- importing ---


def adapter_file(adapter: str) -> Path | None:
    """Return the file that the text names, by itself or by its folder; None for the name of a module.

    Raises AdapterError for a path without such a file.
    """
    path = Path(adapter)
    inside = path / f"{DEFAULT_ADAPTER}.py"
    if inside.is_file():
        return inside.absolute()
    if path.is_file():
        return path.absolute()
    if path.suffix == ".py" or "/" in adapter:
        what = f"{inside} does not exist" if path.is_dir() else f"{path} does not exist"
        raise AdapterError([f"{what}; name a module, a file, or a folder that holds {DEFAULT_ADAPTER}.py"])
    return None


def _import(adapter: str) -> ModuleType:
    file = adapter_file(adapter)
    folder = str(file.parent if file else Path.cwd())
    sys.path[:] = [folder, *(entry for entry in sys.path if entry != folder)]
    try:
        return _execute(file) if file else importlib.import_module(adapter)
    except (Exception, SystemExit) as error:  # the module runs here: it may raise anything
        raise AdapterError([f"adapter {file or adapter} cannot be imported: {_told(error, file)}"]) from error


def _execute(file: Path) -> ModuleType:
    """Run a file as a module that others can import by its stem, unless another module has that name."""
    taken = sys.modules.get(file.stem)
    is_free = taken is None or getattr(taken, "__file__", None) == str(file)
    name = file.stem if is_free else f"{file.stem}_{sha256(bytes(file)).hexdigest()[:8]}"
    return import_file(file, name)


def _told(error: BaseException, file: Path | None) -> str:
    """Return the error, and its traceback from the adapter on."""
    frames = traceback.extract_tb(error.__traceback__)
    own = next((number for number, frame in enumerate(frames) if file and frame.filename == str(file)), len(frames))
    lines = traceback.format_exception_only(error) + traceback.format_list(frames[own:])
    return "".join(lines).rstrip()


# --- finding ---


def _functions(module: ModuleType) -> list[tuple[str, Callable[..., Any]]]:
    """Return the algorithms of a module, by name; says in the log what looks like one and is none."""
    listed = getattr(module, "__all__", ())
    found: list[tuple[str, Callable[..., Any]]] = []
    for attribute, value in sorted(vars(module).items()):
        if not attribute.startswith(PREFIX) or attribute == PREFIX:
            continue
        if not inspect.isfunction(value) or value.__name__ == "<lambda>":
            what = "a lambda" if inspect.isfunction(value) else f"an object of type {type(value).__name__}"
            log.warning("%s is %s and no algorithm: only functions are", attribute, what, extra={"action": "ignored"})
        elif value.__module__ != module.__name__ and attribute not in listed:
            log.info(
                "%s comes from %s and is no algorithm of this adapter; list it in __all__ to make it one",
                attribute, value.__module__, extra={"action": "ignored"},
            )  # fmt: skip
        else:
            found.append((attribute.removeprefix(PREFIX), value))
    return found


def _algorithm(name: str, function: Callable[..., Any], version: str) -> Algorithm:
    faults = _faults(name, function)
    try:
        signature = signature_of(function, f"AlgorithmRequestModel_{name}")
    except SignatureError as error:
        raise SignatureError([*faults, *error.faults]) from error
    if faults:
        raise SignatureError(faults)
    description = Description(
        name=name,
        doc=_first_paragraph(function),
        version=version,
        request=signature.request,
        response=signature.response,
        hash=schema_hash(signature.request, signature.response),
        timeout_s=_timeout_s(function),
        concurrency=getattr(function, "concurrency", None),
    )
    return Algorithm(function=function, signature=signature, description=description)


def _faults(name: str, function: Callable[..., Any]) -> list[str]:
    """Return what is wrong with a function besides its signature."""
    faults = []
    if not names.is_algorithm_name(name):
        faults.append(f'"{name}" is no name of an algorithm; use ASCII letters, digits and _, and no digit first')
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        faults.append("it is a generator; return one result")
    try:
        _timeout_s(function)
    except ValueError as error:
        faults.append(f"its timeout: {error}")
    concurrency = getattr(function, "concurrency", 1)
    if type(concurrency) is not int or concurrency < 1:
        faults.append(f"its concurrency is {concurrency!r}; give a whole number, 1 or more")
    return faults


def _timeout_s(function: Callable[..., Any]) -> float | None:
    """Return the attribute `timeout`: seconds, or a text such as `30s`. Raises ValueError."""
    stated = getattr(function, "timeout", None)
    if stated is None or isinstance(stated, str):
        return None if stated is None else duration_s(stated)
    if isinstance(stated, bool) or not isinstance(stated, (int, float)) or not 0 < stated < float("inf"):
        raise ValueError(f"{stated!r} is no number of seconds above 0")
    return float(stated)


def _first_paragraph(function: Callable[..., Any]) -> str:
    paragraph = (inspect.getdoc(function) or "").strip().partition("\n\n")[0]
    return " ".join(paragraph.split())


def _place(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else function.__module__


def _file(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or module.__name__
