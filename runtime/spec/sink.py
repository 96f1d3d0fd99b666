"""What a node with `sink` stores of each message. Paths name a field, with dots into inner ones."""

from typing import Annotated

from pydantic import Field

from runtime.spec.frozen import Frozen


class DocumentSink(Frozen):
    """Each message is a document. key: path of the field whose value is its `_id`; "" for the message's own id."""

    collection: Annotated[str, Field(min_length=1)]
    key: str = ""


class PointSink(Frozen):
    """Each message is a point of a measurement.

    fields: paths of numbers and booleans; none means all that the message has. tags: paths of texts and numbers. time:
    path of an ISO 8601 text, or a whole number of nanoseconds since 1970; "" for when the message was stored.
    """

    measurement: Annotated[str, Field(min_length=1)]
    fields: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    time: str = ""


SinkSpec = DocumentSink | PointSink
