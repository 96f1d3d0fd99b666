"""Bearer tokens with scopes: who may ask a driver for what."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from enum import StrEnum

from runtime.errors import ConfigError


class TokenScope(StrEnum):
    """What a token allows: to look, to send requests, to change the driver."""

    READ = "read"
    RUN = "run"
    MANAGE = "manage"


_SCOPED = re.compile(rf"((?:{'|'.join(TokenScope)})(?:,(?:{'|'.join(TokenScope)}))*):(.+)")


class Tokens:
    """Tokens by the hash of their text, with what each allows."""

    def __init__(self, scopes: Mapping[str, frozenset[TokenScope]]) -> None:
        # Hashes have one length, so that comparing them takes the same time for every token that is tried.
        self._scopes = [(_hash(token.encode()), granted) for token, granted in scopes.items()]

    @classmethod
    def read(cls, text: str, variable: str) -> "Tokens":
        """Read tokens set apart by white space: `TOKEN` allows everything, `read,run:TOKEN` what it names.

        Raises ConfigError naming the variable when there is none.
        """
        found: dict[str, frozenset[TokenScope]] = {}
        for entry in text.split():
            match = _SCOPED.fullmatch(entry)
            named = [TokenScope(name) for name in match[1].split(",")] if match else TokenScope
            found[match[2] if match else entry] = frozenset(named)
        if not found:
            raise ConfigError(
                f"the variable {variable} holds no token; set it to one, or to several set apart by spaces"
            )
        return cls(found)

    def scopes_of(self, token: bytes) -> frozenset[TokenScope]:
        """Return what a token allows, nothing for an unknown one; takes as long for the one as for the other."""
        presented = _hash(token)
        granted: frozenset[TokenScope] = frozenset()
        for known, scopes in self._scopes:
            if hmac.compare_digest(known, presented):
                granted = scopes
        return granted


def bearer_token(authorization: bytes) -> bytes:
    """Return the token of `Bearer TOKEN`, b"" for anything else."""
    kind, _, token = authorization.strip().partition(b" ")
    return token.strip() if kind.lower() == b"bearer" else b""


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
