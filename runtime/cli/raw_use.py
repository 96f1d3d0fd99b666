"""Finds handlers that read their data as a mapping without saying so: they get the raw `Any`, which is none.

Only what fails for certain is found, in the handler's own lines: `data["name"]`, `data.get(…)`, `data.items()`.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

# Methods of a mapping that a google.protobuf.Any does not have.
MAPPING_METHODS = frozenset({"get", "items", "keys", "values"})


def raw_use(function: Callable[..., Any]) -> tuple[str, int] | None:
    """Return the second parameter's name, and the line on which it is used as what it is not; None where it is not."""
    try:
        lines, first = inspect.getsourcelines(function)
        [defined] = ast.parse(textwrap.dedent("".join(lines))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # no function with lines of its own
        return None
    # A decorator may hand on anything.
    if not isinstance(defined, ast.FunctionDef | ast.AsyncFunctionDef) or defined.decorator_list:
        return None
    parameters = [*defined.args.posonlyargs, *defined.args.args]
    if len(parameters) < 2 or parameters[1].annotation is not None:
        return None
    name = parameters[1].arg
    nodes = list(ast.walk(defined))
    if any(_may_be_another(node, name) for node in nodes if node is not parameters[1]):
        return None
    used = [node.lineno for node in nodes if isinstance(node, ast.expr) and _takes_apart(node, name)]
    return (name, first + min(used) - 1) if used else None


def _may_be_another(node: ast.AST, name: str) -> bool:
    """Tell whether the name is given to something else here, or asked for its type."""
    match node:
        case ast.arg(arg=found):
            return found == name
        case ast.Name(id=found, ctx=ast.Store() | ast.Del()):
            return found == name
        case ast.Call(func=ast.Name(id="isinstance"), args=[ast.Name(id=found), *_]):
            return found == name
    return False


def _takes_apart(node: ast.expr, name: str) -> bool:
    """Tell whether this is `name[…]`, or one of `MAPPING_METHODS`."""
    match node:
        case ast.Subscript(value=ast.Name(id=found)):
            return found == name
        case ast.Attribute(value=ast.Name(id=found), attr=method):
            return found == name and method in MAPPING_METHODS
    return False
