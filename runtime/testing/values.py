"""Values as a test compares them."""

from typing import Any

from google.protobuf import any_pb2, descriptor_pool, message_factory


def unpacked(value: Any) -> Any:
    """Return the message inside an `Any`, if generated code of its type was imported; else the value as it is."""
    if not isinstance(value, any_pb2.Any):
        return value
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(value.TypeName())
    except KeyError:
        return value
    return message_factory.GetMessageClass(descriptor).FromString(value.value)
