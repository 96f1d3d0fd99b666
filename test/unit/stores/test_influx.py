"""The pure parts of the InfluxDB store: URLs."""

import pytest

from runtime.errors import ConfigError
from runtime.stores.influx import InfluxPointStore


@pytest.mark.parametrize("url", ["http://", "http://u:secret@", "http://u:secret@h:port", "http://u:secret@[h"])
def test_a_url_without_a_usable_host_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^KRT_INFLUX_URI needs a host") as refusal:
        InfluxPointStore(url, token="", org="", bucket="krt")

    assert "secret" not in str(refusal.value)
    assert refusal.value.__context__ is None
