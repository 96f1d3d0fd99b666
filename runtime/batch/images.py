"""Images of packaged models: here or pulled, and what is known of them."""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from runtime.batch.engine import Engine, EngineRefusalError
from runtime.errors import PullError

# Where an image says the version of what is in it.
VERSION_LABEL = "org.opencontainers.image.version"
# Where docker looks for an image whose name has no registry.
DEFAULT_REGISTRY = "docker.io"
DOCKER_HUB = "https://index.docker.io/v1/"
# Above all no name that begins like an option.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """Who pulls images; without one the engine's own login counts."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that is here. id: for the engine; digest: `sha256:…` in its registry, or of itself."""

    id: str
    digest: str
    labels: Mapping[str, str]


async def fetch_image(engine: Engine, name: str, login: RegistryLogin | None) -> Image:
    """Return the image of this name, pulled if it is not here.

    Raises PullError, BackendUnavailableError when engine or registry do not answer.
    """
    if _NAME.fullmatch(name) is None:
        raise PullError(f"'{name}' is no name of an image")
    image = await _find(engine, name)
    if image is None:
        await _pull(engine, name, login)
        image = await _find(engine, name)
    if image is None:
        raise PullError(f"{name} was pulled, but {engine.program} does not have it")
    return image


async def _find(engine: Engine, name: str) -> Image | None:
    try:
        (said,) = json.loads(await engine.call("image", "inspect", name))
    except EngineRefusalError:  # it is not here
        return None
    image_id = f"sha256:{said['Id'].removeprefix('sha256:')}"
    digests = [digest.partition("@")[2] for digest in said.get("RepoDigests") or ()]
    named = name.partition("@")[2]
    digest = named if named in digests else next(iter(digests), image_id)
    return Image(id=image_id, digest=digest, labels=said["Config"].get("Labels") or {})


async def _pull(engine: Engine, name: str, login: RegistryLogin | None) -> None:
    try:
        if login is None:
            await engine.call("pull", "--quiet", name, timeout_s=None)
            return
        # A file of its own: the login is for this pull only, and must not be seen in the list of processes.
        with TemporaryDirectory(prefix="krt-login-") as folder:
            file = Path(folder) / "config.json"
            file.write_text(json.dumps({"auths": {_registry(name): {"auth": _basic(login)}}}))
            arguments = (
                ("--config", folder, "pull", "--quiet", name)
                if engine.program == "docker"
                else ("pull", "--quiet", "--authfile", str(file), name)
            )
            await engine.call(*arguments, timeout_s=None)
    except EngineRefusalError as error:
        raise PullError(f"{name} cannot be pulled: {error}") from error


def _registry(name: str) -> str:
    """Return the registry of an image as the file of logins calls it."""
    first, separator, _ = name.partition("/")
    if separator and (any(character in first for character in ".:") or first == "localhost"):
        return DOCKER_HUB if first == DEFAULT_REGISTRY else first
    return DOCKER_HUB


def _basic(login: RegistryLogin) -> str:
    return base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
