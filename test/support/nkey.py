"""Identities of NATS that need nkeys: a user's key pair, and an operator with one account whose users have JWTs."""

import base64
import hashlib
import json
import os
from typing import Any

import nkeys

OPERATOR, ACCOUNT, USER = nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER


def new_pair(kind: int) -> Any:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), kind))


def public(pair: Any) -> str:
    return str(pair.public_key.decode())


def seed(pair: Any) -> str:
    return str(pair.seed.decode())


class Operator:
    """An operator whose one account may use JetStream."""

    def __init__(self) -> None:
        self._operator = new_pair(OPERATOR)
        self._account, self._system = new_pair(ACCOUNT), new_pair(ACCOUNT)

    def server_options(self) -> dict[str, Any]:
        """Return the options of a server that trusts this operator."""
        storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        return {
            "operator": _jwt(self._operator, public(self._operator), {"type": "operator"}),
            "system_account": public(self._system),
            "resolver": "MEMORY",
            "resolver_preload": {
                public(self._account): self._account_jwt(self._account, storage),
                public(self._system): self._account_jwt(self._system, {}),
            },
        }

    def _account_jwt(self, account: Any, storage: dict[str, int]) -> str:
        limits = {"conn": -1, "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "leaf": -1}
        return _jwt(
            self._operator,
            public(account),
            {"type": "account", "limits": {**limits, **storage, "wildcards": True}},
        )

    def creds(self) -> str:
        """Return the text of a user's credentials file."""
        user = new_pair(USER)
        jwt = _jwt(self._account, public(user), {"type": "user", "subs": -1, "data": -1, "payload": -1})
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed(user)}\n------END USER NKEY SEED------\n"
        )


def _jwt(issuer: Any, subject: str, claims: dict[str, Any]) -> str:
    body: dict[str, Any] = {"iat": 1, "iss": public(issuer), "name": claims["type"], "sub": subject}
    body["nats"] = {**claims, "version": 2}
    body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
    signed = f"{_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_part(body)}"
    return f"{signed}.{_base64(issuer.sign(signed.encode()))}"


def _part(value: dict[str, Any]) -> str:
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
