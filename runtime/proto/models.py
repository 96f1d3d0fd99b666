"""The messages between coordinators and model hosts, in the private pool of this package, for the reason given there.

Package and file are our own; the bytes are those of the model runner's own client and server.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_REPEATED = _Field.LABEL_REPEATED
_ENUM = "VariantType"

# Numbers of VariantType.
VARIANT_TYPES = ("NONE", "DOUBLE", "INT", "STRING", "PARQUET", "ARROW", "JSON")

# Message -> (name, number, type) of its fields; a type in capitals is a message, with `[]` behind it a list.
_MESSAGES: dict[str, tuple[tuple[str, int, str], ...]] = {
    "Variant": (("type", 2, _ENUM), ("value", 3, "bytes")),
    "Argument": (("position", 1, "uint32"), ("data", 2, "Variant")),
    "KwArgument": (("keyword", 1, "string"), ("data", 2, "Variant")),
    "Status": (("code", 1, "string"), ("message", 2, "string")),
    "SetupRequest": (
        ("className", 1, "string"),
        ("instanceArguments", 2, "Argument[]"),
        ("instanceKwArguments", 3, "KwArgument[]"),
    ),
    "SetupResponse": (("status", 1, "Status"),),
    "ResetResponse": (("status", 1, "Status"),),
    "CallRequest": (
        ("methodName", 1, "string"),
        ("methodArguments", 2, "Argument[]"),
        ("methodKwArguments", 3, "KwArgument[]"),
    ),
    "CallResponse": (("status", 1, "Status"), ("methodResponse", 2, "Variant")),
}
_SCALARS = {"bytes": _Field.TYPE_BYTES, "string": _Field.TYPE_STRING, "uint32": _Field.TYPE_UINT32}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="krt/models.proto", package="krt.models", syntax="proto3")
    types = file.enum_type.add(name=_ENUM)
    for number, name in enumerate(VARIANT_TYPES):
        types.value.add(name=name, number=number)
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, number, kind in fields:
            _add_field(described, name, number, kind)
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number, label=_REPEATED if "[]" in kind else _Field.LABEL_OPTIONAL)
    kind = kind.removesuffix("[]")
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
        return
    field.type = _Field.TYPE_ENUM if kind == _ENUM else _Field.TYPE_MESSAGE
    field.type_name = f".krt.models.{kind}"


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"krt.models.{name}"))


# Made at run time, so the type checker knows nothing of their fields.
Variant: Any = _class("Variant")
Argument: Any = _class("Argument")
KwArgument: Any = _class("KwArgument")
Status: Any = _class("Status")
SetupRequest: Any = _class("SetupRequest")
SetupResponse: Any = _class("SetupResponse")
ResetResponse: Any = _class("ResetResponse")
CallRequest: Any = _class("CallRequest")
CallResponse: Any = _class("CallResponse")
