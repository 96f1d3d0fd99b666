"""Why a server does not let us in: what cannot be helped by waiting, and what a person has to do about it."""

import ssl

from runtime.bus.direct import NoTlsError, NoWebSocketError
from runtime.settings import redact

# Where a process finds its credentials, as remedies name it.
_FOLDER = "the folder of credentials (KRT_NATS_CREDENTIALS)"
# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
_OUT_OF_TIME = (9, 10)


def describe(error: BaseException | None) -> str:
    """Return an error's text without credentials; its class where it has no text."""
    return redact(str(error) or type(error).__name__) if error is not None else "no reason given"


def is_refusal(error: BaseException) -> bool:
    """Say whether waiting cannot help: the server answered and said no, or is not the one that it should be."""
    return isinstance(error, ssl.SSLError | NoTlsError | NoWebSocketError) or _is_about_users(error)


def remedy(error: BaseException | None, *, has_tls: bool) -> str:
    """Return what to do about a refusal. has_tls: whether the credentials hold certificates."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _OUT_OF_TIME:
            return "renew the server's certificate, and look at both clocks"
        if has_tls:
            return f"ca.crt in {_FOLDER} is not of the authority that signed the server's certificate for this address"
        return f"the server asks for TLS: put the certificate of its authority into {_FOLDER} as ca.crt"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "what listens there does not speak TLS; use ws:// in place of wss://, or a server with TLS"
    if isinstance(error, ssl.SSLError):
        return f"put tls.crt and tls.key into {_FOLDER}, valid and signed by an authority that the server knows"
    if isinstance(error, NoWebSocketError):
        return "use wss:// if the listener has TLS, and nats:// or tls:// if it is not one for WebSockets"
    if isinstance(error, NoTlsError):
        return f"use a server with TLS, or take the certificates out of {_FOLDER}"
    return f"correct the user in {_FOLDER} or the user part of KRT_NATS_SERVER"


def _is_about_users(error: BaseException) -> bool:
    text = str(error).lower()
    return "authorization" in text or "authentication" in text
