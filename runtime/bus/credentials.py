"""What a process shows to NATS: the files of its credentials folder, all checked before anything is connected.

| file | holds |
|---|---|
| `ca.crt` | the certificates that sign those of the servers, in place of the system's |
| `tls.crt`, `tls.key` | certificate and key of this process (mutual TLS), without a passphrase |
| `user.creds` | JWT and seed of a user, in one file |
| `user.nk` | seed of an nkey |
| `user`, `password` | a name and its password |
| `inbox` | prefix of the subjects on which this user may get answers; `krt permissions` writes it |

The first three go with one of the others, or stand alone. Other files are left alone.
"""

import importlib.util
import logging
import re
import ssl
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import SettingsError

log = logging.getLogger(__name__)

TEXTS = ("user.creds", "user.nk", "user", "password", "inbox")
CERTIFICATES = ("ca.crt", "tls.crt", "tls.key")
# Files that nobody but their owner and his group should read.
SECRETS = ("tls.key", "user.creds", "user.nk", "password")
# Ways to say who this is; a folder has one of them at most.
IDENTITIES = ("user.creds", "user.nk", "user")
# The package that signs with nkeys, which JWTs need as well.
NKEYS = "nkeys"

# A seed of a user: `SU`, then base32.
_SEED = re.compile(r"SU[A-Z2-7]{56}")
_CREDS = re.compile(r"BEGIN NATS USER JWT.*BEGIN USER NKEY SEED", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Checked credentials; an empty field is not used. creds_file: holds JWT and seed."""

    tls: ssl.SSLContext | None = None
    user: str = ""
    password: str = field(default="", repr=False)
    seed: str = field(default="", repr=False)
    creds_file: str = ""
    inbox_prefix: str = ""


def read_credentials(folder: Path) -> Credentials:
    """Read a folder, and warn of secrets that others can read. Raises SettingsError with every fault."""
    if not folder.is_dir():
        raise SettingsError([f"the 'KRT_NATS_CREDENTIALS' env var is '{folder}': expected a folder that exists"])
    credentials, faults = examine(folder)
    if faults:
        raise SettingsError([f"the 'KRT_NATS_CREDENTIALS' folder {folder}: {fault}" for fault in faults])
    return credentials


def examine(folder: Path) -> tuple[Credentials, list[str]]:
    """Return what a folder holds and every fault, which begins with its file; warn of secrets that others can read."""
    present = [name for name in (*CERTIFICATES, *TEXTS) if (folder / name).exists()]
    texts, faults = _read(folder, present)
    faults += _identity_faults(texts)
    tls: ssl.SSLContext | None = None
    try:
        tls = _tls_context(folder, present)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        faults.append(_tls_fault(folder, present, error))
    if not present:
        faults.append(f"holds none of {', '.join((*CERTIFICATES, *TEXTS))}")
    _warn_of_readers(folder, present)
    credentials = Credentials(
        tls=tls,
        user=texts.get("user", ""),
        password=texts.get("password", ""),
        seed=texts.get("user.nk", ""),
        inbox_prefix=texts.get("inbox", ""),
        creds_file=str(folder / "user.creds") if "user.creds" in texts else "",
    )
    return credentials, faults


def _read(folder: Path, present: list[str]) -> tuple[dict[str, str], list[str]]:
    texts: dict[str, str] = {}
    faults: list[str] = []
    for name in present:
        try:
            text = (folder / name).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no text"
            faults.append(f"{name} cannot be read: {reason}; it has to be a text file that this process may read")
            continue
        if not text:
            faults.append(f"{name} is empty; fill it, or remove it")
        elif name in TEXTS:
            texts[name] = text
    return texts, faults


def _identity_faults(texts: Mapping[str, str]) -> Iterator[str]:
    named = [name for name in IDENTITIES if name in texts]
    if len(named) > 1:
        yield f"{' and '.join(named)} each say who this is; keep one of them"
    if "password" in texts and "user" not in texts:
        yield "password needs a file user beside it"
    if "user" in texts and "password" not in texts:
        yield "user needs a file password beside it"
    if "user.nk" in texts and not _SEED.fullmatch(texts["user.nk"]):
        yield "user.nk is no seed of a user: SU… and nothing else"
    if "user.creds" in texts and not _CREDS.search(texts["user.creds"]):
        yield "user.creds holds no JWT with its seed; copy the file that nsc writes"
    if not {"user.nk", "user.creds"}.isdisjoint(texts) and not _has_nkeys():
        yield f"{' and '.join(n for n in named if n != 'user')} needs the package {NKEYS}, which is not installed"


def _tls_context(folder: Path, present: list[str]) -> ssl.SSLContext | None:
    """Return the context for the certificates of the folder; None without any. Raises ValueError, OSError."""
    if not set(CERTIFICATES).intersection(present):
        return None
    if ("tls.crt" in present) != ("tls.key" in present):
        raise ValueError("tls.crt and tls.key belong together, and one is missing; add it")
    context = ssl.create_default_context(cafile=str(folder / "ca.crt") if "ca.crt" in present else None)
    if "tls.crt" in present:
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key", password=_refuse_passphrase)
    return context


def _refuse_passphrase() -> str:
    """Called for an encrypted key; without this a process would ask the terminal."""
    raise ValueError("tls.key is encrypted; store it without a passphrase")


def _tls_fault(folder: Path, present: list[str], error: Exception) -> str:
    """Name the file of a fault: OpenSSL says only what is wrong."""
    if not isinstance(error, OSError):
        return str(error)
    try:
        if "ca.crt" in present:
            ssl.create_default_context(cafile=str(folder / "ca.crt"))
    except OSError:
        return "ca.crt is no certificate; store it as PEM"
    reason = getattr(error, "reason", None) or error.strerror or str(error)
    if reason == "KEY_VALUES_MISMATCH":
        return "tls.key does not belong to tls.crt; copy both from where the certificate was issued"
    return f"tls.crt with tls.key cannot be used: {reason}; store both as PEM"


def _has_nkeys() -> bool:
    return importlib.util.find_spec(NKEYS) is not None


def _warn_of_readers(folder: Path, present: list[str]) -> None:
    for name in SECRETS:
        if name in present and (folder / name).stat().st_mode & stat.S_IROTH:
            log.warning(
                "%s can be read by every user of this machine; chmod o-r", folder / name,
                extra={"action": "readable-secret"},
            )  # fmt: skip
