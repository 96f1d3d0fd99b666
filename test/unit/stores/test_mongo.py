"""The document store of MongoDB as far as it needs no server: addresses, options, and the price of not using it."""

import subprocess
import sys
from typing import Any

import pytest

from runtime.errors import ConfigError
from runtime.stores.mongo import CLIENT_OPTIONS, MongoDocumentStore, address_of
from runtime.stores.open import open_documents


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("mongodb://localhost", "mongodb://localhost"),
        ("mongodb://ann:secret@h1:1,h2:2/db?authSource=admin", "mongodb://h1:1,h2:2"),
        ("mongodb://ann:sec@ret@h1/db", "mongodb://h1"),
        ("mongodb://ann:sec/ret@h1/db", "mongodb://h1"),
        ("mongodb+srv://ann:secret@cluster.example.org/?tlsCertificateKeyFilePassword=a@b", None),
    ],
)
def test_an_address_shows_hosts_and_nothing_else(uri: str, address: str | None) -> None:
    assert address_of(uri) == (address or "mongodb+srv://cluster.example.org")


@pytest.mark.parametrize(
    "uri", ["mongodb://ann:sec/ret@host", "mongodb://ann:sec@ret@host", "mongodb://", "mongodb://h:x"]
)
def test_a_uri_that_the_driver_does_not_take_is_refused_without_its_secrets(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"^KRT_MONGO_URI is no address .*percent-encoded$") as refusal:
        open_documents(uri)

    assert refusal.value.__cause__ is refusal.value.__context__ is None
    assert "sec" not in str(refusal.value)


def test_a_database_name_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^'a\.b' is no name of a MongoDB database: "):
        open_documents("mongodb://localhost", "a.b")


def option(store: MongoDocumentStore, name: str) -> Any:
    pool = store._client.delegate.options.pool_options
    return {"socketTimeoutMS": pool.socket_timeout, "connectTimeoutMS": pool.connect_timeout}[name]


def test_the_uri_wins_over_our_options_whatever_the_case() -> None:
    ours, theirs = (MongoDocumentStore(f"mongodb://localhost/{query}") for query in ("", "?sockettimeoutms=70000"))

    assert option(ours, "socketTimeoutMS") == CLIENT_OPTIONS["socketTimeoutMS"] / 1000
    assert option(theirs, "socketTimeoutMS") == 70.0
    assert option(theirs, "connectTimeoutMS") == CLIENT_OPTIONS["connectTimeoutMS"] / 1000


def test_a_cluster_name_is_not_looked_up_before_the_first_use() -> None:
    store = open_documents("mongodb+srv://ann:secret@cluster.invalid/db")

    assert isinstance(store, MongoDocumentStore)


def test_a_process_with_sqlite_does_not_import_the_driver() -> None:
    program = """
import sys
from runtime.stores.open import open_documents
open_documents("sqlite:///x.db")
print(sorted({"motor", "pymongo", "bson"} & sys.modules.keys()))
"""

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout == "[]\n"
