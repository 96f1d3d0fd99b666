"""The child process of `krt check` that imports one handler: `python -m runtime.cli.probe FOLDER HANDLER WANTED`.

WANTED is the JSON of a `Wanted`. Prints what the handler declares as JSON, or what is wrong with it. A process of its
own, because importing runs the user's code: it may fail, hang, print, or leave with `os._exit`, and two handlers may
need modules of the same name.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import Literal

from runtime import errors
from runtime.cli.raw_use import raw_use
from runtime.node.handler import LoadedHandler, load_function, load_handler
from runtime.node.handler_types import handler_types
from runtime.spec.edges import HandlerTypes
from runtime.spec.frozen import Frozen
from runtime.spec.join import JoinSpec


class Wanted(Frozen):
    """What the node asks of its handler beyond a signature. state: class of its states, "" for the default one.

    batched: it takes lists of messages.

    function: what is called with two arguments in place of a handler, with the names of both: `vote(results, data)`.
    """

    state: str | None = None
    join: JoinSpec | None = None
    batched: bool = False
    function: str = ""


NOTHING_ELSE = Wanted()


class Finding(Frozen):
    """What the child found: the `types` of a handler, or a fault with its code; neither for a function that fits."""

    types: HandlerTypes | None = None
    fault: str = ""
    code: Literal["handler-import", "handler-signature"] = "handler-import"


def probe(folder: Path, handler: str, wanted: Wanted = NOTHING_ELSE) -> Finding:
    """Import one handler and return what it declares, or what is wrong with it."""
    try:
        if wanted.function:
            load_function(folder, handler, wanted.function)
            return Finding()
        loaded = _fitted(load_handler(folder, handler, batched=wanted.batched), wanted)
    except errors.HandlerLoadError as err:
        return Finding(fault=str(err), code=_code(err, folder / handler))
    # Of a join and of a batch the data is a mapping and a list, whatever the annotation.
    if wanted.join is None and not wanted.batched and (fault := _raw_use(loaded, handler)):
        return Finding(fault=fault, code="handler-signature")
    return Finding(types=handler_types(loaded))


def _raw_use(loaded: LoadedHandler, handler: str) -> str:
    """Return what is wrong with a function that takes its data for something else than the raw `Any`, or ""."""
    functions = [*loaded.by_node.values(), *([loaded.default] if loaded.default else [])]
    for function in functions:
        if found := raw_use(function.function):
            name, line = found
            what = f"{handler}:{line}: {name} has no annotation, so it is a raw google.protobuf.Any"
            return f"{what}, which holds no keys; write {name}: dict, or another type, in the function's signature"
    return ""


def _fitted(loaded: LoadedHandler, wanted: Wanted) -> LoadedHandler:
    """Return the handler as the node calls it. Raises HandlerLoadError.

    Most nodes want none of this, and each has a probe of its own: it is imported where it is wanted.
    """
    if wanted.state is not None:
        from runtime.node.state import StateClass

        StateClass.load(wanted.state, loaded)
    if wanted.join is not None:
        from runtime.node.join import parts_decoder

        parts_decoder(wanted.join, loaded)
    if wanted.batched:
        from runtime.node.batching_handler import for_batches

        loaded = for_batches(loaded)
    return loaded


def _code(err: errors.HandlerLoadError, path: Path) -> Literal["handler-import", "handler-signature"]:
    """Tell a module that fails while it runs from one that runs and does not fit."""
    cause = err.__cause__
    frames = traceback.extract_tb(cause.__traceback__) if cause else []
    ran = any(Path(frame.filename) == path.absolute() for frame in frames)
    return "handler-import" if ran or isinstance(cause, SyntaxError) else "handler-signature"


def main() -> None:
    """Probe the handler named by the arguments; the answer goes to what was the standard output."""
    # The user's module may print: its output goes where errors go, and the answer stays alone.
    answer = os.dup(1)
    os.dup2(2, 1)
    finding = probe(Path(sys.argv[1]), sys.argv[2], Wanted.model_validate_json(sys.argv[3]))
    with open(answer, "w", encoding="utf-8") as opened:
        opened.write(finding.model_dump_json())
    sys.stderr.flush()
    # Threads that the module has started would keep the process alive.
    os._exit(0)


if __name__ == "__main__":
    main()
