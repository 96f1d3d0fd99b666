"""What KRE brings: its message class, in a pool of its own, and handler folders with generated modules of their own."""

from pathlib import Path
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_ANY = ".google.protobuf.Any"

# A module as protoc writes it: importing it registers its file in protobuf's default pool, which fails the second time.
_GENERATED = """
from google.protobuf import any_pb2, descriptor_pool
from google.protobuf.internal import builder

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile({file!r})
builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, {module!r}, globals())
"""


def kre_message(version: int) -> Any:
    """Return the class `KreNatsMessage` of a wire version."""
    return _class_of(_kre_file(version), "KreNatsMessage")


def public_message(name: str) -> Any:
    """Return `Request` (name) or `Response` (greeting), the messages of the handlers' callers."""
    return _class_of(_public_file(), f"main.{name}")


def write_generated(folder: Path, version: int) -> None:
    """Write `kre_nats_msg_pb2.py` and `public_input_pb2.py`, which KRE's handlers import from their own folder."""
    for module, file in (("kre_nats_msg_pb2", _kre_file(version)), ("public_input_pb2", _public_file())):
        text = _GENERATED.format(file=file.SerializeToString(), module=module)
        (folder / f"{module}.py").write_text(text)


def _kre_file(version: int) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="kre_nats_msg.proto", syntax="proto3")
    file.dependency.append("google/protobuf/any.proto")
    message = file.message_type.add(name="KreNatsMessage")
    if version == 1:
        _add_texts(message.nested_type.add(name="Tracking"), "node_name", "start", "end")
        _add(message, "tracking_id", 1, _Field.TYPE_STRING)
        _add(message, "tracking", 2, _Field.TYPE_MESSAGE, _Field.LABEL_REPEATED, type_name=".KreNatsMessage.Tracking")
        _add(message, "reply", 3, _Field.TYPE_STRING)
        _add(message, "payload", 4, _Field.TYPE_MESSAGE, type_name=_ANY)
        _add(message, "error", 5, _Field.TYPE_STRING)
        _add(message, "replied", 6, _Field.TYPE_BOOL)
        _add(message, "early_exit", 7, _Field.TYPE_BOOL)
        return file
    kinds = file.enum_type.add(name="MessageType")
    for number, name in enumerate(("UNDEFINED", "OK", "ERROR", "EARLY_REPLY", "EARLY_EXIT")):
        kinds.value.add(name=name, number=number)
    _add(message, "request_id", 1, _Field.TYPE_STRING)
    _add(message, "payload", 2, _Field.TYPE_MESSAGE, type_name=_ANY)
    _add(message, "error", 3, _Field.TYPE_STRING)
    _add(message, "from_node", 4, _Field.TYPE_STRING)
    _add(message, "message_type", 5, _Field.TYPE_ENUM, type_name=".MessageType")
    return file


def _public_file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="public_input.proto", package="main", syntax="proto3")
    _add_texts(file.message_type.add(name="Request"), "name")
    _add_texts(file.message_type.add(name="Response"), "greeting")
    return file


def _add_texts(message: descriptor_pb2.DescriptorProto, *names: str) -> None:
    for number, name in enumerate(names, start=1):
        _add(message, name, number, _Field.TYPE_STRING)


def _add(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: Any, label: Any = None, type_name: str = ""
) -> None:
    field = message.field.add(name=name, number=number, type=kind, label=label or _Field.LABEL_OPTIONAL)
    if type_name:
        field.type_name = type_name


def _class_of(file: descriptor_pb2.FileDescriptorProto, name: str) -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
