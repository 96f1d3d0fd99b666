import email.utils
from datetime import UTC, datetime, timedelta

import pytest

from runtime.durations import MAX_RETRY_AFTER_S, retry_after_s


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 0.0), ("", 0.0), ("2", 2.0), ("-1", 0.0), ("86400", MAX_RETRY_AFTER_S), ("soon", 0.0), ("nan", 0.0)],
)
def test_retry_after_counts_seconds(header: str | None, seconds: float) -> None:
    assert retry_after_s(header) == seconds


def test_retry_after_may_be_a_date() -> None:
    in_a_minute = datetime.now(UTC) + timedelta(seconds=60)

    assert 55.0 < retry_after_s(email.utils.format_datetime(in_a_minute, usegmt=True)) <= 60.0
