"""Exceptions on their way between a node and its worker processes.

The classes of `runtime.errors` and the common ones of Python arrive as themselves. Of the user's classes, whose modules
the node never imports, arrive the names, which `retry.never` and a dead letter go by, and the text. The traceback comes
along.
"""

from typing import Any

import orjson

from runtime import errors
from runtime.node.dead_letters import RemoteTraceback, user_traceback
from runtime.node.isolation_frames import readable
from runtime.node.settle import text_of

Told = dict[str, Any]

# What every failure is anyhow.
_ROOTS = (object, BaseException, Exception)
# Of Python's own those that somebody catches by class and that are made of a text.
_BUILT_IN: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (TypeError, ValueError, KeyError, RuntimeError, TimeoutError, AttributeError, MemoryError)
}


def told(failure: BaseException) -> Told:
    """Return what is to be known of a failure, as JSON."""
    kinds = [kind for kind in type(failure).__mro__ if kind not in _ROOTS] or [type(failure)]
    is_ours = isinstance(failure, (errors.KrtError, errors.Outcome))
    return {
        "classes": [(kind.__module__, kind.__name__) for kind in kinds],
        "text": readable(text_of(failure)),
        "arguments": list(failure.args) if _is_plain(failure.args) else None,
        "attributes": {name: each for name, each in vars(failure).items() if _is_plain(each)} if is_ours else {},
        "traceback": readable(user_traceback(failure)),
    }


def raised(told: Told) -> Exception:
    """Return the failure that `told` was made of, with the place where it was raised as its cause."""
    classes, arguments = told["classes"], told["arguments"]
    kind = _known(*classes[0])
    if kind is None or arguments is None:
        kind, arguments = _stand_in(classes), [told["text"]]
    # Past `__init__`, whose arguments may be others; what it has made of them are the attributes.
    failure = kind.__new__(kind, *arguments)
    vars(failure).update(told["attributes"])
    failure.__cause__ = RemoteTraceback(told["traceback"])
    return failure


def _stand_in(classes: list[tuple[str, str]]) -> type[Exception]:
    """Return a class with all these names among its own and its bases', derived from the first one that is known."""
    kind = next((kind for kind in (_known(*each) for each in classes) if kind is not None), Exception)
    its_own = {base.__name__ for base in kind.__mro__}
    for name in reversed([name for _, name in classes if name not in its_own]):
        # A text is all that it holds, whatever the known one makes of its arguments.
        kind = type(name, (kind,), {"__str__": Exception.__str__})
    return kind


def _known(module: str, name: str) -> type[Exception] | None:
    if module == errors.__name__:
        return getattr(errors, name)  # type: ignore[no-any-return]  # a class of ours that was raised
    return _BUILT_IN.get(name) if module == "builtins" else None


def _is_plain(value: object) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True
