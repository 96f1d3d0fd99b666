"""From type hints to JSON Schema: one way for the arguments of algorithms and for what handlers read and send."""

import json
from typing import Any, Literal

import pydantic
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind
from pydantic_core import PydanticSerializationError
from pydantic_core.core_schema import DataclassField, ModelField, TypedDictField

JsonSchema = dict[str, Any]


class TypeSchema(GenerateJsonSchema):
    """Pydantic's JSON Schema 2020-12, with two differences.

    It is silent about defaults that are no JSON: those are left out. And what is sent holds every field of a model,
    those with a default as well, which pydantic calls optional.
    """

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - pydantic has it so

    def encode_default(self, dft: Any) -> Any:
        encoded = super().encode_default(dft)
        try:
            json.dumps(encoded, allow_nan=False)
        except ValueError as error:
            raise PydanticSerializationError(str(error)) from error
        return encoded

    def field_is_required(self, field: ModelField | DataclassField | TypedDictField, total: bool) -> bool:
        if self.mode == "serialization" and field["type"] != "typed-dict-field":
            return not field.get("serialization_exclude")
        return super().field_is_required(field, total)


def type_schema(hint: Any, mode: Literal["validation", "serialization"]) -> JsonSchema:
    """Return the schema of what is read (validation) or sent as a type.

    Raises PydanticUserError or TypeError for one without a form in JSON, and whatever the user's own types raise.
    """
    return pydantic.TypeAdapter(hint).json_schema(mode=mode, schema_generator=TypeSchema)
