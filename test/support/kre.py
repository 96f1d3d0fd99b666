"""KRE's own messages, as its generated code has them, in a pool of their own."""

from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory


def kre_message(version: int) -> Any:
    """Return the class `KreNatsMessage` of a wire version."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"kre{version}.proto", package="kre", syntax="proto3")
    file.dependency.append("google/protobuf/any.proto")
    message = file.message_type.add(name="KreNatsMessage")
    any_type = ".google.protobuf.Any"

    def add(name: str, number: int, kind: Any, label: Any = field.LABEL_OPTIONAL, **more: str) -> None:
        message.field.add(name=name, number=number, type=kind, label=label, **more)

    if version == 1:
        entry = message.nested_type.add(name="Tracking")
        for number, name in enumerate(("node_name", "start", "end"), start=1):
            entry.field.add(name=name, number=number, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
        add("tracking_id", 1, field.TYPE_STRING)
        add("tracking", 2, field.TYPE_MESSAGE, field.LABEL_REPEATED, type_name=".kre.KreNatsMessage.Tracking")
        add("reply", 3, field.TYPE_STRING)
        add("payload", 4, field.TYPE_MESSAGE, type_name=any_type)
        add("error", 5, field.TYPE_STRING)
        add("replied", 6, field.TYPE_BOOL)
        add("early_exit", 7, field.TYPE_BOOL)
    else:
        add("request_id", 1, field.TYPE_STRING)
        add("payload", 2, field.TYPE_MESSAGE, type_name=any_type)
        add("error", 3, field.TYPE_STRING)
        add("from_node", 4, field.TYPE_STRING)
        add("message_type", 5, field.TYPE_INT32)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("kre.KreNatsMessage"))
