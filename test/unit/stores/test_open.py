"""From a URI to a store."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.stores.base import Insert, Point
from runtime.stores.open import open_documents, open_points


async def test_four_slashes_are_an_absolute_path_and_one_file_holds_both_stores(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'store.db'}"
    assert uri.startswith("sqlite:////")
    documents, points = open_documents(uri, "data"), open_points(uri)

    await documents.insert_many([Insert(collection="c", document={"_id": 1})])
    points.save(Point("m", {"n": 1}, {}, 1))
    await points.close()

    assert await documents.find("c", {}) == [{"_id": 1}]
    assert [point.fields for point in await open_points(uri).query("m")] == [{"n": 1}]
    await documents.close()
    assert os.listdir(tmp_path) == ["store.db"]


async def test_three_slashes_are_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_documents("sqlite:///data/store.db")
    (tmp_path / "data").mkdir()

    await store.find("c", {})

    assert (tmp_path / "data" / "store.db").exists()
    await store.close()


def test_opening_touches_nothing(tmp_path: Path) -> None:
    open_documents(f"sqlite:///{tmp_path}/store.db")
    open_points(f"sqlite:///{tmp_path}/store.db")

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "postgres://user:secret@host/db",
            "KRT_MONGO_URI has the scheme 'postgres': this version stores documents only",
        ),
        ("user:secret@host", "KRT_MONGO_URI has no scheme: "),
        ("sqlite://store.db", "KRT_MONGO_URI has the scheme 'sqlite': "),
        ("sqlite:///", "KRT_MONGO_URI names no file: write 'sqlite:///<path>'"),
        ("sqlite:///:memory:", "KRT_MONGO_URI names no file"),
    ],
)
def test_a_uri_that_this_version_cannot_use_is_refused_without_its_secrets(uri: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        open_documents(uri)

    assert str(refusal.value).startswith(message)
    assert "sqlite:///<path>" in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_points_name_their_own_variable() -> None:
    with pytest.raises(ConfigError, match=r"^KRT_INFLUX_URI has the scheme 'udp': this version stores measurements"):
        open_points("udp://localhost:8086")


def test_a_web_address_is_an_influxdb_and_only_then_its_client_is_imported() -> None:
    program = """
import sys
from runtime.stores.open import open_points
open_points("sqlite:///points.db")
print("influxdb_client" in sys.modules)
store = open_points("http://localhost:8086", token="t", org="o", bucket="b")
print("influxdb_client" in sys.modules, type(store).__name__)
"""

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout.split() == ["False", "True", "InfluxPointStore"]
