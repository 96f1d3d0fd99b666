"""Messages of a stream as text for people and as JSON."""

from dataclasses import asdict
from typing import Any

import orjson

from runtime.cli.outputs import plain
from runtime.cli.quantities import iso, moment, size
from runtime.inspection.seen import Seen
from runtime.message import MessageType


def message_text(seen: Seen, now_ns: int) -> str:
    """Return a line about the message, then its value."""
    parts = [f"#{seen.sequence}", seen.subject.partition(".")[2], moment(seen.stored_ns, now_ns)]
    parts += [f"request {seen.request_id}"] if seen.request_id else []
    parts += [size(seen.size_bytes), seen.payload_type or "no payload"]
    parts += [seen.type] if seen.type not in (MessageType.OK.name, MessageType.UNDEFINED.name) else []
    parts += [f"redrive {seen.redrive}"] if seen.redrive else []
    return "  ".join(parts) + f"\n{indented(body_text(seen))}"


def body_text(seen: Seen) -> str:
    """Return the value as indented JSON, or the error that takes its place, or what could not be read."""
    if seen.fault:
        return f"cannot be read: {seen.fault}"
    if seen.error:
        return f"error: {seen.error}"
    if seen.claim is not None:
        return payload_text(seen)
    return value_text(seen.value)


def payload_text(seen: Seen) -> str:
    """Return where the payload of a message lies that is too large to be inside of it."""
    if seen.claim is None:
        return ""
    there = "removed from the object store, for the message is done" if seen.claim_is_gone else "in the object store"
    return f"payload of {size(seen.claim.size)} {there}: {seen.claim.object}"


def value_text(value: Any) -> str:
    """Return a value as indented JSON; protobuf messages of a type that is not known here as type and base64."""
    return orjson.dumps(value, default=plain, option=orjson.OPT_INDENT_2).decode()


def message_record(seen: Seen) -> dict[str, Any]:
    """Return what stands in JSON for a message; `outputs.json_line` writes it."""
    return {
        "sequence": seen.sequence,
        "subject": seen.subject,
        "stored": iso(seen.stored_ns),
        "size_bytes": seen.size_bytes,
        "message_id": seen.message_id,
        "redrive": seen.redrive,
        "run_s": seen.run_s,
        "request_id": seen.request_id,
        "from_node": seen.from_node,
        "type": seen.type,
        "error": seen.error,
        "payload_type": seen.payload_type,
        "value": seen.value,
        "fault": seen.fault,
        "claim": {**asdict(seen.claim), "gone": seen.claim_is_gone} if seen.claim else None,
    }


def indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
