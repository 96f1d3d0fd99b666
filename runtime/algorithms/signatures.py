"""The signature of a function as JSON Schema, and the pydantic model that turns a JSON object into its arguments.

Fields of a model have made-up names, and the argument's as an alias: arguments may be called `schema`, `_x` or
`model_y`, which pydantic refuses as fields.
"""

import hashlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
import pydantic
from pydantic.fields import FieldInfo

from runtime.spec.type_schema import JsonSchema, TypeSchema, type_schema

_CONFIG = pydantic.ConfigDict(extra="forbid", protected_namespaces=())
_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
# Keywords of JSON Schema whose values are schemas by name, and whose values are data; neither holds texts of ours.
_NAMED = frozenset({"properties", "patternProperties", "$defs", "dependentSchemas"})
_DATA = frozenset({"default", "const", "enum", "examples", "required", "mapping"})
_TEXTS = frozenset({"title", "description"})


class SignatureError(Exception):
    """A function cannot be called with a JSON object; `faults` names every argument that is wrong, and how."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a function takes and gives. response: its schema, None without a return hint."""

    parameters: tuple[inspect.Parameter, ...]
    model: type[pydantic.BaseModel]
    request: JsonSchema
    response: JsonSchema | None

    def arguments(self, body: bytes) -> tuple[list[Any], dict[str, Any]]:
        """Return the validated, converted arguments of a call, by position and by name.

        An argument that is not given is the function's own default, the very object. Raises pydantic.ValidationError.
        """
        made = self.model.model_validate_json(body)
        by_position, by_name = [], {}
        for field, parameter in zip(self.model.model_fields, self.parameters, strict=True):
            left_out = field not in made.model_fields_set and parameter.default is not parameter.empty
            value = parameter.default if left_out else getattr(made, field)
            if parameter.kind is parameter.POSITIONAL_ONLY:
                by_position.append(value)
            else:
                by_name[parameter.name] = value
        return by_position, by_name


def signature_of(function: Callable[..., Any], model_name: str) -> Signature:
    """Return the signature; that of the innermost function where `functools.wraps` was used. Raises SignatureError."""
    faults: list[str] = []
    try:
        declared = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise SignatureError([f"its signature cannot be read: {error}"]) from error
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    parameters: list[inspect.Parameter] = []
    fields: dict[str, Any] = {}
    for parameter in declared.parameters.values():
        try:
            hint, parameter = _argument(parameter, scope)
            fields[f"argument_{len(fields)}"] = _field(hint, parameter, model_name)
            parameters.append(parameter)
        except _FaultError as error:
            faults.append(f'argument "{_STARS.get(parameter.kind, "")}{parameter.name}": {error}')
    try:
        response = _response(declared.return_annotation, scope)
    except _FaultError as error:
        faults.append(f"the return hint: {error}")
    if faults:
        raise SignatureError(faults)
    model: type[pydantic.BaseModel] = pydantic.create_model(model_name, __config__=_CONFIG, **fields)
    return Signature(
        parameters=tuple(parameters),
        model=model,
        request=model.model_json_schema(schema_generator=TypeSchema),
        response=response,
    )


def schema_hash(request: JsonSchema, response: JsonSchema | None) -> str:
    """Return the SHA-256 of the schemas without their texts: a change of documentation is none of the signature."""
    canonical = orjson.dumps([without_texts(request), without_texts(response)], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).hexdigest()


def without_texts(schema: Any) -> Any:
    """Return a schema without titles and descriptions; an argument or a default of such a name stays."""
    if isinstance(schema, list):
        return [without_texts(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept = {}
    for key, value in schema.items():
        if key in _NAMED:
            kept[key] = {name: without_texts(each) for name, each in value.items()}
        elif key in _DATA:
            kept[key] = value
        elif key not in _TEXTS:
            kept[key] = without_texts(value)
    return kept


def first_difference(here: Any, there: Any, path: str = "") -> str:
    """Return where two schemas without texts differ first, and how; "" if they do not."""
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        # What both have comes first: a changed type says more than what follows from it.
        for key in [*(key for key in here if key in there), *(key for key in {**here, **there})]:
            inner = f"{path}.{key}" if path else str(key)
            if found := first_difference(here.get(key), there.get(key), inner):
                return found
        return ""
    if here == there:
        return ""
    return f"{path or 'all'} is {_shown(here)} here and {_shown(there)} there"


def _shown(value: Any) -> str:
    return "missing" if value is None else orjson.dumps(value).decode()


# --- one argument ---


class _FaultError(Exception):
    """What is wrong with one hint."""


def _argument(parameter: inspect.Parameter, scope: dict[str, Any]) -> tuple[Any, inspect.Parameter]:
    """Return the resolved hint, and the parameter with the default that is its own."""
    if parameter.kind in _STARS:
        raise _FaultError("a call has named arguments only; name each of them")
    if parameter.annotation is parameter.empty:
        raise _FaultError("it has no type hint; write one, such as str")
    hint = _resolved(parameter.annotation, scope)
    if isinstance(parameter.default, FieldInfo):
        # `count: int = Field(3, ge=1)` is no default of the function's, but says what pydantic shall fill in.
        return Annotated[hint, parameter.default], parameter.replace(default=parameter.empty)
    return hint, parameter


def _field(hint: Any, parameter: inspect.Parameter, model_name: str) -> tuple[Any, Any]:
    """Return the field of a model. Raises _FaultError for a hint that no JSON can be converted to."""
    options: dict[str, Any] = {"alias": parameter.name}
    if parameter.default is not parameter.empty:
        options["default"] = parameter.default
    field = (hint, pydantic.Field(**options))
    try:
        alone = pydantic.create_model(model_name, __config__=_CONFIG, argument=field)
        alone.model_json_schema(schema_generator=TypeSchema)
    except Exception as error:  # hints hold the user's code, which may raise anything
        raise _FaultError(f"{_hint_text(hint)} has no form in JSON: {_first_line(error)}") from error
    return field


def _response(annotation: Any, scope: dict[str, Any]) -> JsonSchema | None:
    if annotation is inspect.Signature.empty:
        return None
    hint = _resolved(annotation, scope)
    try:
        return type_schema(hint, "serialization")
    except Exception as error:  # as above
        raise _FaultError(f"{_hint_text(hint)} has no form in JSON: {_first_line(error)}") from error


def _resolved(annotation: Any, scope: dict[str, Any]) -> Any:
    holder = types.SimpleNamespace(__annotations__={"hint": annotation})
    try:
        return typing.get_type_hints(holder, globalns=scope, include_extras=True)["hint"]
    except Exception as error:  # as above
        raise _FaultError(f"the hint {annotation!r} cannot be resolved: {_first_line(error)}") from error


def _hint_text(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _first_line(error: Exception) -> str:
    return str(getattr(error, "message", error)).partition("\n")[0]
