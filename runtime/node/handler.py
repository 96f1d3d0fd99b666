"""The user's module: found, imported, checked before the first message, and made callable in one way.

Does not call it: `runner.py` does, with the help of `runtime.threads` for plain functions.
"""

import ast
import contextlib
import functools
import inspect
import sys
import traceback
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any

from runtime.errors import HandlerLoadError
from runtime.module_files import import_file
from runtime.payload import Decoder, decode_any, decoder_for
from runtime.spec import names
from runtime.spec.edges import HandlerTypes

# What KRE handlers call to see whether they were given an error; using it means that they want to be.
ERROR_PROBE = "is_message_error"
# The one module name of ours that a handler folder may not hide.
RESERVED_MODULE = "runtime"
# Handlers that the runtime ships, by what stands in place of their path.
BUILT_IN = {names.PASS_HANDLER: Path(__file__).parent / "builtin" / "passthrough.py"}


class CallKind(StrEnum):
    """How a callable is to be called; the plain ones run in a thread."""

    PLAIN = "def"
    ASYNC = "async def"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"

    @property
    def is_async(self) -> bool:
        return self in (CallKind.ASYNC, CallKind.ASYNC_GENERATOR)


@dataclass(frozen=True, slots=True)
class HandlerFunction:
    """One callable of the user's, with the way to call it and to read its input.

    batched: it takes lists of messages; `decode` and `annotation` are of one of them.
    """

    function: Callable[..., Any]
    kind: CallKind
    decode: Decoder
    annotation: Any = Any
    batched: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedHandler:
    """A checked handler module.

    default: called for every message, or for those of nodes that `by_node` does not name; None without one.
    from_node_style: `default_handler`/`custom_handlers`, whose returned values are ignored.
    channels: the declared ones, or None when the module declares none. handle_errors: ERROR messages are handled too.
    beside: runs from `init` to `teardown`, and ends the node when it ends; no module of the user's has one. types: what
    it declares, where its functions are not here to be asked.
    """

    path: Path
    module: ModuleType
    default: HandlerFunction | None
    by_node: Mapping[str, HandlerFunction]
    from_node_style: bool
    init: HandlerFunction | None
    teardown: HandlerFunction | None
    channels: frozenset[str] | None
    handle_errors: bool
    beside: HandlerFunction | None = None
    types: HandlerTypes | None = None

    @property
    def is_async(self) -> bool:
        """Whether every callable for messages runs on the loop."""
        functions = [*self.by_node.values(), *([self.default] if self.default else [])]
        return all(function.kind.is_async for function in functions)

    def select(self, from_node: str) -> HandlerFunction | None:
        """Return the callable for messages of `from_node`, None when there is none."""
        return self.by_node.get(from_node, self.default) if self.by_node else self.default


def load_handler(
    base: Path,
    handler_path: str,
    *,
    use_annotations: bool = True,
    first_version: bool = False,
    batched: bool = False,
) -> LoadedHandler:
    """Import and check the module at `base / handler_path`, or a built-in one.

    The file's folder becomes the first entry of `sys.path` and `base` the second; the current folder leaves it.
    use_annotations: False for bare runners, whose handlers get the raw `Any` whatever they wrote. first_version: on
    KRE's first wire version `handler` is taken where there are handlers by sender, too, and no handler gets an ERROR.
    batched: `for_batches` is to read what the handler takes, a list of which no single payload may be.
    Raises HandlerLoadError with file, line and what was expected; nothing of the module is left behind then.
    """
    module, path = load_module(base, handler_path)
    try:
        return _check(path, module, use_annotations, first_version, batched)
    except HandlerLoadError:
        sys.modules.pop(module.__name__, None)
        raise


# --- importing ---


def load_module(base: Path, file: str) -> tuple[ModuleType, Path]:
    """Import the module at `base / file`, or a built-in one; return it with its path. Raises HandlerLoadError."""
    path = BUILT_IN.get(file) or (base / file).absolute()
    if file not in BUILT_IN:
        _refuse_outside(path, base)
    if not path.is_file():
        raise HandlerLoadError(f"Error loading handler script {path}: no such file; check KRT_HANDLER_PATH")
    _refuse_reserved(path)
    _extend_path(path.parent, base.absolute())
    return _import(path), path


def load_function(base: Path, file: str, signature: str) -> Callable[..., Any]:
    """Import a module and return one of its functions. signature: its name and those of its two arguments.

    Raises HandlerLoadError.
    """
    module, path = load_module(base, file)
    name = signature.partition("(")[0]
    found = getattr(module, name, None)
    if not callable(found):
        raise HandlerLoadError(f"{path} has no function '{name}'; define {signature}")
    try:
        inspect.signature(found).bind(None, None)
    except (TypeError, ValueError) as error:
        raise HandlerLoadError(f"{path}: expected {signature}: {error}; change its arguments") from error
    function: Callable[..., Any] = found
    return function


def _refuse_outside(path: Path, base: Path) -> None:
    """Refuse a path, or a link, that leads out of the workflow's folder."""
    real = path.resolve()
    if not real.is_relative_to(base.resolve()):
        raise HandlerLoadError(f"handler {path} leads to {real}, outside of {base}; put the file itself there")


def _refuse_reserved(path: Path) -> None:
    for taken in (path.parent / f"{RESERVED_MODULE}.py", path.parent / RESERVED_MODULE):
        if (taken.suffix == ".py" and taken.is_file()) or (taken / "__init__.py").is_file():
            raise HandlerLoadError(
                f"{taken} hides the package 'runtime', which handlers import; rename it (every other name is yours)"
            )


def _extend_path(*folders: Path) -> None:
    current = str(Path.cwd())
    wanted = [str(folder) for folder in dict.fromkeys(folders)]
    sys.path[:] = wanted + [entry for entry in sys.path if entry not in ("", current, *wanted)]


def _import(path: Path) -> ModuleType:
    name = path.stem if path.stem.isidentifier() and path.stem not in sys.modules else "worker"
    try:
        return import_file(path, name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit of the user's too
        raise HandlerLoadError(_describe_import_error(path, error)) from error


def _describe_import_error(path: Path, error: BaseException) -> str:
    """Return the error with its traceback from the user's file on; the import machinery's frames are of no use."""
    report = traceback.TracebackException.from_exception(error)
    own = [index for index, frame in enumerate(report.stack) if frame.filename == str(path)]
    if own:
        del report.stack[: own[0]]
    else:
        report.stack.clear()
    report.__context__ = report.__cause__ = None
    where = f"{path}:{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else str(path)
    if own:
        where = f"{path}:{report.stack[0].lineno}"
    text = "".join(report.format()).rstrip()
    return f"Error loading handler script {where}: {type(error).__name__}: {error}\n{text}"


# --- checking ---


def _check(path: Path, module: ModuleType, use_annotations: bool, first_version: bool, batched: bool) -> LoadedHandler:
    make = functools.partial(_function, path, use_annotations=use_annotations, batched=batched)
    plain = getattr(module, "handler", None)
    default = getattr(module, "default_handler", None)
    custom = getattr(module, "custom_handlers", None)
    from_node_style = default is not None or bool(custom)
    if plain is None and not from_node_style:
        raise HandlerLoadError(_no_handler(path, module))
    if custom is not None and not isinstance(custom, Mapping):
        raise HandlerLoadError(f"{path}: 'custom_handlers' must map node names to functions, it is {custom!r}")
    if first_version and plain is not None:
        from_node_style, custom = False, None
    chosen = default if from_node_style else plain
    return LoadedHandler(
        path=path,
        module=module,
        default=make("default_handler" if from_node_style else "handler", chosen, 2) if chosen is not None else None,
        by_node={
            str(node): make(f"custom_handlers[{node!r}]", function, 2) for node, function in (custom or {}).items()
        },
        from_node_style=from_node_style,
        init=make("init", module.init, 1) if hasattr(module, "init") else None,
        teardown=make("teardown", module.teardown, 1) if hasattr(module, "teardown") else None,
        channels=_channels(path, module),
        handle_errors=not first_version and _wants_errors(path, module),
    )


def _no_handler(path: Path, module: ModuleType) -> str:
    near = [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and name not in ("init", "teardown")
    ]
    hint = f"; it defines {', '.join(near)}" if near else ""
    return (
        f"Handler module '{path}' must implement a function 'handler(ctx, data)'{hint}"
        " (alternatives: 'default_handler(ctx, data)', or 'custom_handlers = {\"node\": function}')"
    )


def _function(
    path: Path, name: str, function: Any, arguments: int, *, use_annotations: bool, batched: bool
) -> HandlerFunction:
    where = f"{path}:{_line(function)}"
    expected = f"{name}(ctx, data)" if arguments == 2 else f"{name}(ctx)"
    if not callable(function):
        raise HandlerLoadError(f"{where}: '{name}' must be a function {expected}, it is {function!r}")
    try:
        signature = inspect.signature(function)
        signature.bind(*[None] * arguments)
    except (TypeError, ValueError) as error:
        raise HandlerLoadError(f"{where}: expected {expected}: {error}; change its arguments") from error
    decode: Decoder = decode_any
    annotation: Any = Any
    if arguments == 2 and use_annotations:
        annotation = _second_annotation(where, name, function, signature)
        try:
            decode = decode_any if batched else decoder_for(annotation)
        except TypeError as error:
            raise HandlerLoadError(f"{where}: the second argument of '{name}': {error}") from error
    return HandlerFunction(function, _kind(function), decode, annotation)


def _line(function: Any) -> int:
    with contextlib.suppress(TypeError, OSError):
        return inspect.getsourcelines(_innermost(function))[1]
    return 1


def _innermost(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if not inspect.isroutine(function) and callable(function):
        function = type(function).__call__
    return getattr(function, "__func__", function)


def _second_annotation(where: str, name: str, function: Any, signature: inspect.Signature) -> Any:
    parameters = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(parameters) < 2 or parameters[1].annotation is inspect.Parameter.empty:
        return Any
    try:
        hints = typing.get_type_hints(_innermost(function))
    except Exception as error:  # the user's annotation runs here: it may raise anything
        raise HandlerLoadError(f"{where}: the annotations of '{name}' cannot be read: {error}") from error
    return hints.get(parameters[1].name, Any)


def _kind(function: Any) -> CallKind:
    innermost = _innermost(function)
    if inspect.isasyncgenfunction(innermost):
        return CallKind.ASYNC_GENERATOR
    if inspect.iscoroutinefunction(innermost):
        return CallKind.ASYNC
    if inspect.isgeneratorfunction(innermost):
        return CallKind.GENERATOR
    return CallKind.PLAIN


def _channels(path: Path, module: ModuleType) -> frozenset[str] | None:
    declared = getattr(module, "channels", None)
    if declared is None:
        return None
    if not isinstance(declared, (Mapping, list, tuple, set, frozenset)) or not all(
        isinstance(c, str) for c in declared
    ):
        raise HandlerLoadError(f"{path}: 'channels' must map channel names to types, it is {declared!r}")
    return frozenset(declared)


def _wants_errors(path: Path, module: ModuleType) -> bool:
    stated = getattr(module, "handle_errors", None)
    if stated is not None:
        return bool(stated)
    tree = ast.parse(path.read_bytes())
    return any(
        (isinstance(node, ast.Attribute) and node.attr == ERROR_PROBE)
        or (isinstance(node, ast.Name) and node.id == ERROR_PROBE)
        for node in ast.walk(tree)
    )
