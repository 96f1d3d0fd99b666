"""The key `sink` of a node without code: its tables, in the form of those of `spec/fields.py`."""

from dataclasses import dataclass

from runtime.spec.record import Field, Record
from runtime.spec.report import Fault, Report
from runtime.spec.sink import DocumentSink, PointSink, SinkSpec
from runtime.spec.tree import Items, Value
from runtime.spec.values import FieldPath, JsonSchema, Spot, expect_mapping, expect_text, wrong_type


@dataclass(frozen=True, slots=True)
class FieldPaths:
    """A list of fields of a message."""

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[str, ...]:
        if not isinstance(value, Items):
            raise wrong_type(value, spot, "a list of fields of the message: [score]")
        found: list[str] = []
        for item in value.items:
            with report.collecting():
                found.append(FieldPath().read(item, spot, report))
        return tuple(dict.fromkeys(found))

    def schema(self) -> JsonSchema:
        return {"type": "array", "items": FieldPath().schema()}


@dataclass(frozen=True, slots=True)
class StoreText:
    """What documents or points are stored under. It begins with none of `forbidden`."""

    expected: str
    forbidden: str

    def read(self, value: Value, spot: Spot, report: Report) -> str:
        text = expect_text(value, spot, self.expected)
        if text.text[0] in self.forbidden or "\0" in text.text:
            raise Fault(value.place, f"{spot} is {text}", "begin it with a letter", "wrong-value")
        return text.text

    def schema(self) -> JsonSchema:
        return {"type": ["string", "number", "boolean"], "pattern": f"^[^{self.forbidden}]"}


_DOCUMENTS = Record(
    {
        # `$` begins what MongoDB keeps for itself, `#` a comment of InfluxDB.
        "collection": Field(
            type=StoreText("the name of a collection", "$"),
            required=True,
            description="Collection in which each message is stored as a document",
        ),
        "key": Field(type=FieldPath(), description="Field whose value is the _id; by default an id of the message"),
    }
)
_POINTS = Record(
    {
        "measurement": Field(
            type=StoreText("the name of a measurement", "#"),
            required=True,
            description="Measurement of which each message is a point",
        ),
        "fields": Field(
            type=FieldPaths(), description="Fields of the point, numbers or booleans; by default all that there are"
        ),
        "tags": Field(type=FieldPaths(), description="Fields that become tags"),
        "time": Field(
            type=FieldPath(),
            description="Field with its time: ISO 8601, or nanoseconds since 1970; by default when it was sent",
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Sinking:
    """A collection of documents, or a measurement. Read as None where its faults are told."""

    def read(self, value: Value, spot: Spot, report: Report) -> SinkSpec | None:
        mapping = expect_mapping(value, spot, "{collection: scores}")
        given = [key for key in ("collection", "measurement") if mapping.get(key) is not None]
        if not given:
            remedy = "name one of them: {collection: scores}"
            raise Fault(value.place, f'{spot} has no "collection" and no "measurement"', remedy, "missing-key")
        if len(given) == 2:
            remedy = "make a sink of each"
            raise Fault(value.place, f'{spot} has "collection" and "measurement"', remedy, "conflict")
        if given == ["collection"]:
            read = _DOCUMENTS.read(value, spot, report)
            return DocumentSink(**read) if "collection" in read else None
        read = _POINTS.read(value, spot, report)
        return PointSink(**read) if "measurement" in read else None

    def schema(self) -> JsonSchema:
        return {"oneOf": [_DOCUMENTS.schema(), _POINTS.schema()]}


SINK = {
    "sink": Field(
        type=Sinking(),
        required=True,
        description="In place of code: store each message, {collection: scores, key: id} or {measurement: score}",
    )
}
