"""`ctx.prediction.save`: the document that KRE's own programs read as a metric of a classification."""

from datetime import UTC, datetime
from typing import Any

from runtime.errors import ContextError
from runtime.stores.base import Document

# Collection that KRE's programs read.
COLLECTION = "classificationMetrics"

ERR_MISSING_VALUES = "missing_values"
ERR_NEW_LABELS = "new_labels"
_ERRORS = (ERR_MISSING_VALUES, ERR_NEW_LABELS)

_DATE_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


def build_prediction(
    predicted_value: str,
    true_value: str,
    extra: Any,
    utcdate: datetime | None,
    error: str,
    *,
    version_id: str,
    version: str,
    now_ns: int,
) -> Document:
    """Return the document of one prediction, its keys in KRE's order; to be saved in `COLLECTION`.

    extra: any JSON value, checked when the document is saved. utcdate: naive is UTC, None is `now_ns`.
    Raises ContextError with the fixed text for an unknown error, an empty value without an error, or a date that is
    not UTC.
    """
    if error not in ("", *_ERRORS):
        raise ContextError(
            f"[ctx.prediction.save] invalid value for metric error {error} should be one of '{','.join(_ERRORS)}'"
        )
    if not error:
        _require_text("predicted_value", predicted_value)
        _require_text("true_value", true_value)
    return {
        "date": _utc(utcdate, now_ns).strftime(_DATE_FORMAT),
        "error": error,
        "predictedValue": predicted_value,
        "trueValue": true_value,
        "extra": extra,
        "versionId": version_id,
        "versionName": version,
    }


def _require_text(argument: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ContextError(f"[ctx.prediction.save] invalid '{argument}'='{value}', must be a nonempty string")


def _utc(date: datetime | None, now_ns: int) -> datetime:
    if date is None:
        return datetime.fromtimestamp(now_ns // 1_000 / 1_000_000, UTC)
    if date.utcoffset():
        raise ContextError("Input date must be a UTC datetime")
    return date
