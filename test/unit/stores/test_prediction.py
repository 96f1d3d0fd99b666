"""The document of a prediction, as KRE's programs read it, and the fixed texts of its refusals."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from runtime.errors import ContextError
from runtime.stores.prediction import ERR_MISSING_VALUES, ERR_NEW_LABELS, build_prediction

NOW = datetime(2026, 11, 21, 10, 0, 0, 123456, tzinfo=UTC)
NOW_NS = 1_795_255_200_123_456_789


def build(
    predicted_value: Any = "cat", true_value: Any = "dog", extra: Any = None, utcdate: Any = None, error: Any = ""
) -> dict[str, Any]:
    return build_prediction(
        predicted_value, true_value, extra, utcdate, error, version_id="id1", version="v1", now_ns=NOW_NS
    )  # fmt: skip


def test_the_keys_and_their_order_are_kres() -> None:
    document = build("cat", "dog", {"score": 0.9})

    assert list(document.items()) == [
        ("date", "2026-11-21T10:00:00.123456Z"),
        ("error", ""),
        ("predictedValue", "cat"),
        ("trueValue", "dog"),
        ("extra", {"score": 0.9}),
        ("versionId", "id1"),
        ("versionName", "v1"),
    ]


@pytest.mark.parametrize(
    "date", [NOW, NOW.replace(tzinfo=None), NOW.astimezone(timezone(timedelta(0), "GMT")), None], ids=repr
)
def test_a_utc_date_has_six_digits_and_a_z(date: datetime | None) -> None:
    assert build(utcdate=date)["date"] == "2026-11-21T10:00:00.123456Z"


def test_a_date_without_a_fraction_has_six_digits_too() -> None:
    assert build(utcdate=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))["date"] == "2026-01-02T03:04:05.000000Z"


@pytest.mark.parametrize("error", [ERR_MISSING_VALUES, ERR_NEW_LABELS])
def test_with_an_error_the_values_may_be_empty(error: str) -> None:
    document = build("", "", error=error)

    assert (document["error"], document["predictedValue"], document["trueValue"]) == (error, "", "")


def test_the_errors_have_kres_values() -> None:
    assert (ERR_MISSING_VALUES, ERR_NEW_LABELS) == ("missing_values", "new_labels")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"error": "odd"},
            "[ctx.prediction.save] invalid value for metric error odd should be one of 'missing_values,new_labels'",
        ),
        (
            {"predicted_value": ""},
            "[ctx.prediction.save] invalid 'predicted_value'='', must be a nonempty string",
        ),
        ({"true_value": ""}, "[ctx.prediction.save] invalid 'true_value'='', must be a nonempty string"),
        ({"true_value": 5}, "[ctx.prediction.save] invalid 'true_value'='5', must be a nonempty string"),
        ({"utcdate": NOW.astimezone(timezone(timedelta(hours=1)))}, "Input date must be a UTC datetime"),
    ],
)
def test_wrong_arguments_are_refused_with_the_fixed_text(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ContextError) as refusal:
        build(**arguments)

    assert str(refusal.value) == message
