"""The pure parts of the InfluxDB store: URLs and the pauses that a server asks for."""

import email.utils
from datetime import UTC, datetime, timedelta

import pytest

from runtime.errors import ConfigError
from runtime.stores.influx import MAX_RETRY_AFTER_S, InfluxPointStore, retry_after_s


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 0.0), ("", 0.0), ("2", 2.0), ("-1", 0.0), ("86400", MAX_RETRY_AFTER_S), ("soon", 0.0)],
)
def test_retry_after_counts_seconds(header: str | None, seconds: float) -> None:
    assert retry_after_s(header) == seconds


def test_retry_after_may_be_a_date() -> None:
    in_a_minute = datetime.now(UTC) + timedelta(seconds=60)

    assert 55.0 < retry_after_s(email.utils.format_datetime(in_a_minute, usegmt=True)) <= 60.0


@pytest.mark.parametrize("url", ["http://", "http://u:secret@", "http://u:secret@h:port", "http://u:secret@[h"])
def test_a_url_without_a_usable_host_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^KRT_INFLUX_URI needs a host") as refusal:
        InfluxPointStore(url, token="", org="", bucket="krt")

    assert "secret" not in str(refusal.value)
    assert refusal.value.__context__ is None
