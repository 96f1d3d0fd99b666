"""The messages of KRT's own on the wire, in a descriptor pool of their own.

KRE handlers bring a `kre_nats_msg_pb2` that registers `KreNatsMessage` in protobuf's default pool; a second
registration there would make their import fail. So these descriptors live in a private pool, and `payload` is declared
as bytes, which has the same form on the wire as the `google.protobuf.Any` inside it.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto

# (name, number, type) of KreNatsMessage, KRE's second wire version; numbers from 16 on are KRT's own.
_ENVELOPE_FIELDS = (
    ("request_id", 1, _Field.TYPE_STRING),
    ("payload", 2, _Field.TYPE_BYTES),
    ("error", 3, _Field.TYPE_STRING),
    ("from_node", 4, _Field.TYPE_STRING),
    ("message_type", 5, _Field.TYPE_INT32),
    ("state_id", 16, _Field.TYPE_STRING),
    ("deadline", 17, _Field.TYPE_INT64),
    ("reply_to", 18, _Field.TYPE_STRING),
    ("traceparent", 19, _Field.TYPE_STRING),
    ("outcome", 21, _Field.TYPE_STRING),
    ("claim", 22, _Field.TYPE_BYTES),
    ("run_us", 23, _Field.TYPE_INT64),
)
_HEADERS_NUMBER = 20
# (name, number, type) of the claim in an envelope, which is bytes there: most messages have none to be parsed.
_CLAIM_FIELDS = (
    ("object", 1, _Field.TYPE_STRING),
    ("size", 2, _Field.TYPE_INT64),
    ("sha256", 3, _Field.TYPE_STRING),
)

# (name, number, type) of KreNatsMessage, KRE's first wire version, and of its tracking entries, which are bytes here.
_FIRST_ENVELOPE_FIELDS = (
    ("tracking_id", 1, _Field.TYPE_STRING),
    ("reply", 3, _Field.TYPE_STRING),
    ("payload", 4, _Field.TYPE_BYTES),
    ("error", 5, _Field.TYPE_STRING),
    ("replied", 6, _Field.TYPE_BOOL),
    ("early_exit", 7, _Field.TYPE_BOOL),
)
_TRACKING_NUMBER = 2
_TRACKING_FIELDS = (
    ("node_name", 1, _Field.TYPE_STRING),
    ("start", 2, _Field.TYPE_STRING),
    ("end", 3, _Field.TYPE_STRING),
)


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="krt/envelope.proto", package="krt", syntax="proto3")
    envelope = file.message_type.add(name="Envelope")
    for name, number, kind in _ENVELOPE_FIELDS:
        envelope.field.add(name=name, number=number, type=kind, label=_Field.LABEL_OPTIONAL)
    entry = envelope.nested_type.add(name="HeadersEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
    envelope.field.add(
        name="headers",
        number=_HEADERS_NUMBER,
        type=_Field.TYPE_MESSAGE,
        label=_Field.LABEL_REPEATED,
        type_name=".krt.Envelope.HeadersEntry",
    )
    claim = file.message_type.add(name="Claim")
    for name, number, kind in _CLAIM_FIELDS:
        claim.field.add(name=name, number=number, type=kind, label=_Field.LABEL_OPTIONAL)
    first = file.message_type.add(name="FirstEnvelope")
    for name, number, kind in _FIRST_ENVELOPE_FIELDS:
        first.field.add(name=name, number=number, type=kind, label=_Field.LABEL_OPTIONAL)
    first.field.add(name="tracking", number=_TRACKING_NUMBER, type=_Field.TYPE_BYTES, label=_Field.LABEL_REPEATED)
    tracking = file.message_type.add(name="Tracking")
    for name, number, kind in _TRACKING_FIELDS:
        tracking.field.add(name=name, number=number, type=kind, label=_Field.LABEL_OPTIONAL)
    return file


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())

# Made at run time, so the type checker knows nothing of their fields.
Envelope: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("krt.Envelope"))
ClaimFields: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("krt.Claim"))
FirstEnvelope: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("krt.FirstEnvelope"))
Tracking: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("krt.Tracking"))


def _encoded(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


# Most lengths of a message; a node writes four of them for each.
_SHORT = tuple(map(_encoded, range(0x400)))


def varint(number: int) -> bytes:
    """Return a length as protobuf writes it."""
    return _SHORT[number] if number < 0x400 else _encoded(number)


# Bits of a number on the wire, at most: what goes on for longer is none, and could be megabytes long.
_MAX_VARINT_BITS = 70


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the number at `position`, and the position behind it; what is cut off or goes on counts as its end."""
    if position < len(data) and (byte := data[position]) < 0x80:  # most tags, and most lengths
        return byte, position + 1
    value = shift = 0
    while position < len(data) and shift < _MAX_VARINT_BITS:
        byte = data[position]
        position += 1
        if byte < 0x80:
            return value | byte << shift, position
        value |= (byte & 0x7F) << shift
        shift += 7
    return value, position
