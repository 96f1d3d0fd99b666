"""The folder of credentials that a coordinator or a model host shows to NATS, checked before anything is connected.

The files are those of `bus/credentials.py`. Here `ca.crt`, `tls.crt` and `tls.key` have to be there, to be valid today
and to belong together, so that no model is blamed for a coordinator that is not let in.
"""

import os
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from runtime.bus.credentials import CERTIFICATES, examine
from runtime.errors import CredentialsError

# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
_NOT_YET_VALID, _EXPIRED = 9, 10
# Turns in which each side of a handshake has its say; two are enough for TLS 1.3.
_TURNS = 4


@dataclass(frozen=True, slots=True)
class SecureCredentials:
    """Credentials that were checked. path: their folder, which is read again by whoever connects."""

    path: Path

    @classmethod
    def from_directory(cls, path: str | os.PathLike[str]) -> Self:
        """Check a folder. Raises CredentialsError with every fault, its file and what to do; warns of readable keys."""
        folder = Path(path).resolve()
        if faults := list(_faults(folder)):
            raise CredentialsError([f"{folder}: {fault}" for fault in faults])
        return cls(folder)


def _faults(folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        yield "is no folder; give the one that holds the issued certificate"
        return
    missing = [name for name in CERTIFICATES if not (folder / name).exists()]
    yield from (f"{name} is missing; copy it from where the certificate was issued" for name in missing)
    _, faults = examine(folder)
    yield from (fault for fault in faults if not (missing and "one is missing" in fault))
    if not missing and not faults:
        yield from _certificate_faults(folder)


def _certificate_faults(folder: Path) -> Iterator[str]:
    """Yield why a server that trusts `ca.crt` would not take `tls.crt` now."""
    yield from (faults := list(_authority_faults(folder / "ca.crt")))
    if faults:
        return
    try:
        _present(folder)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            yield "tls.crt has expired; have a new certificate issued"
        elif error.verify_code == _NOT_YET_VALID:
            yield "tls.crt is not valid yet; correct this machine's clock, or wait"
        else:
            yield (
                f"tls.crt is not signed by an authority in ca.crt ({error.verify_message}); copy both from where the "
                "certificate was issued"
            )
    except ssl.SSLError as error:
        yield f"tls.crt cannot be used by a client ({error.reason}); have a new certificate issued"


def _authority_faults(file: Path) -> Iterator[str]:
    """Yield why none of the authorities of a file is one today."""
    known = ssl.create_default_context(cafile=str(file)).get_ca_certs()
    now_s = time.time()
    if not known:
        yield "ca.crt holds no certificate of an authority; copy it from where the certificate was issued"
    elif all(ssl.cert_time_to_seconds(str(each["notAfter"])) < now_s for each in known):
        yield "ca.crt has expired; copy the authority's new certificate"
    elif all(ssl.cert_time_to_seconds(str(each["notBefore"])) > now_s for each in known):
        yield "ca.crt is not valid yet; correct this machine's clock, or wait"


def _present(folder: Path) -> None:
    """Show the certificate to a server made for it. Raises what the server makes of it, an ssl.SSLError.

    A handshake in memory: the standard library checks certificates in no other way.
    """
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_verify_locations(folder / "ca.crt")
    server_context.verify_mode = ssl.CERT_REQUIRED
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    for context in (server_context, client_context):
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_TURNS):
        for side in (client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
