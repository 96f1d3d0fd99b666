"""Certificates of a driver that others connect to, and the warning where it has none."""

import logging
import ssl
from pathlib import Path

from runtime.errors import ConfigError

log = logging.getLogger(__name__)


def server_tls(folder: Path) -> ssl.SSLContext:
    """Return the context of a credentials folder: `tls.crt` and `tls.key`, with `ca.crt` clients have to show one, too.

    Raises ConfigError naming the file.
    """
    for name in ("tls.crt", "tls.key"):
        if not (folder / name).is_file():
            raise ConfigError(f"the credentials folder {folder} has no {name}; a server needs tls.crt and tls.key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key", password=_refuse_passphrase)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or error
        raise ConfigError(f"tls.crt with tls.key in {folder} cannot be used: {reason}") from error
    if (folder / "ca.crt").exists():
        try:
            context.load_verify_locations(folder / "ca.crt")
        except OSError as error:
            raise ConfigError(f"ca.crt in {folder} is no certificate: {error}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def warn_of_openness(kind: str, host: str, *, has_tokens: bool, has_tls: bool) -> None:
    """Tell of a driver that listens on more than this machine without both. kind: `HTTP` or `gRPC`."""
    if host in ("127.0.0.1", "::1") or (has_tokens and has_tls):
        return
    lacks = " and ".join(name for name, there in (("a token", has_tokens), ("TLS", has_tls)) if not there)
    log.warning(
        "the %s driver listens on %s without %s; others on the network can use the workflow", kind, host, lacks,
        extra={"action": "open-driver"},
    )  # fmt: skip


def _refuse_passphrase() -> str:
    """Called for an encrypted key; without this a process would ask the terminal."""
    raise ValueError("tls.key is encrypted; store it without a passphrase")
