"""URIs of stores that a printed file may hold: of a server, without a secret in plain text. Pure."""

import re
from urllib.parse import urlsplit

from runtime.errors import ConfigError
from runtime.settings import redact

MONGO_SCHEMES = ("mongodb", "mongodb+srv")
INFLUX_SCHEMES = ("http", "https")

# A value that is put in later, by its variable: `${NAME}`.
REFERENCE = re.compile(r"\$\{(\w+)\}")


def check_store_uri(option: str, uri: str, schemes: tuple[str, ...], *, files: str = "") -> None:
    """Raise ConfigError for a URI of another kind, or with a password. "" is none at all.

    files: how URIs of SQLite files begin that are allowed too, "" for none.
    """
    if not uri or (files and uri.startswith(files)):
        return
    parts = urlsplit(uri)
    if parts.scheme not in schemes:
        expected = " or ".join([*(f"{each}://…" for each in schemes), *([f"{files}…"] if files else [])])
        raise ConfigError(f"{option} is '{redact(uri)}': expected {expected}")
    if parts.password and not REFERENCE.fullmatch(parts.password):
        raise ConfigError(
            f"{option} holds a password, which a file must not; write ${{NAME}} there, and set NAME later"
        )
