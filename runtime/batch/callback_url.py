"""Where callbacks go: a template of the node, filled in by a request, and the list of what may be called.

The list is what keeps a request from making the worker call whatever it can reach. So a URL has to have a form that
nobody reads in two ways, and no redirect is followed.
"""

import re
from urllib.parse import SplitResult, quote, urlsplit

from runtime.batch.patterns import matches
from runtime.errors import CallbackError, ConfigError
from runtime.spec.batch import CallbackRules

CALLBACK_URL, ID = "callbackURL", "id"

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
# Plain characters alone, a host without a user before it, and a number as its port.
_LABEL = r"[A-Za-z0-9_-]{1,63}"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])"
_URL = re.compile(rf"https?://{_HOST}(?::[0-9]{{1,5}})?(?:[/?][!-\[\]-~]*)?")
_DOTS = re.compile(r"(\.|%2e){1,2}", re.IGNORECASE)


def fill(template: str, *, id: str, callback_url: str) -> str:
    """Return the URL of a request, "" where nobody wants to be told. Raises ConfigError for an unknown placeholder.

    id: of the request; it becomes one step of the path, whatever it holds. callback_url: of the request, as it is.
    """
    values = {CALLBACK_URL: callback_url.rstrip("/"), ID: quote(id, safe="", errors="replace")}
    if unknown := sorted(set(_PLACEHOLDER.findall(template)) - values.keys()):
        raise ConfigError(f"callback.url has no {{{unknown[0]}}} to fill in; there are {{{CALLBACK_URL}}} and {{{ID}}}")
    if _is_from_request(template) and not callback_url:
        return ""
    # In one go: a value may look like a placeholder.
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def check_url(url: str, rules: CallbackRules) -> None:
    """Raise CallbackError unless callbacks may go there."""
    parts = _split(url)
    if parts is None:
        raise CallbackError(f"the callback URL {url[:200]!r} is none that is called; write https://host/path")
    if not rules.allow and not _is_from_request(rules.url):
        return
    if not any(_allows(pattern, parts.scheme, parts.netloc, parts.path) for pattern in rules.allow):
        place = f"{parts.scheme}://{parts.netloc}"
        raise CallbackError(f"{place} may not be called back; the node's owner can add it to callback.allow")


def _split(url: str) -> SplitResult | None:
    """Return the parts of a URL, None for one that servers and clients may read in more than one way."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # of five digits, not all are one
    except ValueError:
        return None
    leaves = any(_DOTS.fullmatch(step) for step in parts.path.split("/"))
    return parts if _URL.fullmatch(url) and not leaves else None


def _is_from_request(template: str) -> bool:
    return f"{{{CALLBACK_URL}}}" in template


def _allows(pattern: str, scheme: str, netloc: str, path: str) -> bool:
    """Say whether a pattern allows a URL. Part by part: a `*` in the path is no part of the host."""
    allowed = urlsplit(pattern)
    return (
        allowed.scheme == scheme
        and matches(allowed.netloc.lower(), netloc.lower())
        and matches(allowed.path.replace("*", "**") or "**", path)
    )
