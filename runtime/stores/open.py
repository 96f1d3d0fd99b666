"""From a URI to a store. The one place that knows every implementation."""

from runtime.errors import ConfigError
from runtime.stores.base import DocumentStore
from runtime.stores.point_queue import QueuedPoints
from runtime.stores.sqlite import SqliteDocumentStore
from runtime.stores.sqlite_points import SqlitePointStore

_SQLITE = "sqlite:///"
_MONGO = ("mongodb://", "mongodb+srv://")


def open_documents(uri: str, database: str = "data") -> DocumentStore:
    """Return the store of documents of KRT_MONGO_URI; it is not contacted before its first use.

    Raises ConfigError for a URI that this version cannot use.
    """
    if uri.startswith(_MONGO):
        # Here, for Motor takes 0.15 s to import, which a process with SQLite need not pay.
        from runtime.stores.mongo import MongoDocumentStore

        return MongoDocumentStore(uri, database)
    return SqliteDocumentStore(
        _path(uri, "KRT_MONGO_URI", "documents", server="'mongodb[+srv]://host' (MongoDB), "), database
    )


def open_points(uri: str, *, token: str = "", org: str = "", bucket: str = "") -> QueuedPoints:
    """Return the store of measurements of KRT_INFLUX_URI; it is not contacted before its first use.

    token, org, bucket: InfluxDB's; SQLite has no use for them.
    Raises ConfigError for a URI that this version cannot use.
    """
    if uri.startswith(("http://", "https://")):
        # Here, for it costs 0.33 s that SQLite's users need not pay; and not at the first flush, which would take
        # them from the messages that are being handled by then.
        from runtime.stores.influx import InfluxPointStore

        return InfluxPointStore(uri, token=token, org=org, bucket=bucket)
    return SqlitePointStore(_path(uri, "KRT_INFLUX_URI", "measurements", server="'http[s]://host:port' (InfluxDB), "))


def _path(uri: str, variable: str, what: str, *, server: str = "") -> str:
    """Return the file of `sqlite:///relative/path` or `sqlite:////absolute/path`. Nothing of a user part is shown."""
    if not uri.startswith(_SQLITE):
        scheme = uri.partition("://")[0] if "://" in uri else ""
        given = f"has the scheme '{scheme}'" if scheme else "has no scheme"
        raise ConfigError(
            f"{variable} {given}: this version stores {what} only in {server}'sqlite:///<path>' (relative)"
            " or 'sqlite:////<path>' (absolute)"
        )
    path = uri.removeprefix(_SQLITE)
    if not path or path.startswith(":"):
        raise ConfigError(f"{variable} names no file: write 'sqlite:///<path>'; several processes have to open it")
    return path
