"""Where the files of runs go: the contract of artifact stores, the keys in them, and which files are public.

    store = await open_store("nats:runs", bus=bus, stream=stream)      # or file:///path, s3://bucket/prefix
    stored = await store.put(key, read_pieces(path), size=size, sha256=sha256)
    async for piece in store.get(key): ...

A key is `<results>/public/<path>` or `<results>/private/<path>`. `results` is made of letters, digits, `-`, `_` and `/`
alone; the path is the file's own, for names are data. One suite, `test/conformance/batch`, holds for every store.
"""

import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from runtime.batch.files import CONTROL
from runtime.batch.patterns import matches
from runtime.errors import StoreError
from runtime.spec.batch import ArtifactRules

Visibility = Literal["public", "private"]

# Bytes of a key: as many as S3 and the object stores of NATS take. And of one step of it, which a file system takes.
MAX_KEY_BYTES = 1024
MAX_STEP_BYTES = 255
# What stands before the hash of a path that is too long for a key.
LONG = "long"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArtifact:
    """What a store has under a key. sha256: hex; "" of what others have put there without."""

    key: str
    size: int
    sha256: str


class CorruptArtifactError(StoreError):
    """A store has other bytes than those that were put, or than it says; the message names the key."""


class ArtifactNotFoundError(StoreError):
    """There is nothing under this key."""


class ArtifactStore(Protocol):
    """Keeps bytes of any size under keys. Nothing keeps more than some 20 MiB of an artifact in memory.

    Every method raises StoreUnavailableError for what passes by itself, StoreError for what a person has to help with
    (a bucket that is not there, rights), and StoreError for a key that is none.
    """

    async def put(self, key: str, pieces: AsyncIterable[bytes], *, size: int, sha256: str) -> StoredArtifact:
        """Store an artifact, and return it once the store has confirmed to have it, as it is.

        It replaces the one of this key, as a whole and at its end; after an error, or a cancellation, nothing of it is
        there. Raises CorruptArtifactError for pieces of another size or hash than said, and what `pieces` raises.
        """
        ...

    async def stat(self, key: str) -> StoredArtifact:
        """Return what is known of an artifact. Raises ArtifactNotFoundError."""
        ...

    def get(self, key: str) -> AsyncIterator[bytes]:
        """Read an artifact piece by piece; breaking off leaves nothing behind.

        Raises ArtifactNotFoundError before the first piece; CorruptArtifactError behind the last one, where the store
        knows what it should have been: the pieces are worth something only when the iterator has ended.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove an artifact; one that is not there is no error."""
        ...

    async def list(self, prefix: str = "") -> Sequence[StoredArtifact]:
        """Return every artifact whose key begins with `prefix`, sorted by key; what it costs grows with the store."""
        ...

    async def close(self) -> None:
        """Let go of connections; the bus is not the store's own."""
        ...


def artifact_key(results: str, visibility: Visibility, path: str) -> str:
    """Return the key of a run's file. results: of the run's record. path: in the run's folder, as `files.text_of`.

    A path that no store takes for its length has a key made of its hash.
    """
    key = f"{results}/{visibility}/{path}"
    if len(key.encode()) <= MAX_KEY_BYTES and all(len(step.encode()) <= MAX_STEP_BYTES for step in path.split("/")):
        return key
    return f"{results}/{visibility}/{LONG}/{hashlib.sha256(path.encode()).hexdigest()}"


def visibility_of(path: str, rules: ArtifactRules) -> Visibility:
    """Return who may have a file of a run that has completed; where patterns of both kinds name it, it is private."""
    is_public = any(matches(pattern, path) for pattern in rules.public)
    is_private = any(matches(pattern, path) for pattern in rules.private)
    return "public" if is_public and not is_private else "private"


def check_key(key: str) -> None:
    """Raise StoreError unless `key` can name an artifact in every store, below its own root."""
    steps = key.split("/")
    try:
        is_short = len(key.encode()) <= MAX_KEY_BYTES and all(len(step.encode()) <= MAX_STEP_BYTES for step in steps)
    except UnicodeEncodeError as error:
        raise StoreError(f"{key[:80]!r} is no key: it is no valid Unicode") from error
    if not is_short or CONTROL.search(key) or not {"", ".", ".."}.isdisjoint(steps):
        raise StoreError(f"{key[:80]!r} is no key: give a relative path of at most {MAX_KEY_BYTES} bytes")


async def checked(key: str, pieces: AsyncIterable[bytes], *, size: int, sha256: str) -> AsyncIterator[bytes]:
    """Yield the pieces, but the end only if they were what was said. Raises CorruptArtifactError.

    sha256: "" where nothing is known of it.
    """
    digest, count = hashlib.sha256(), 0
    async for piece in pieces:
        digest.update(piece)
        count += len(piece)
        yield piece
    if count != size or (sha256 and digest.hexdigest() != sha256):
        raise CorruptArtifactError(f"{key!r} is not what it should be: {count:,} bytes, and {size:,} are known of it")


def confirmed(stored: StoredArtifact, *, size: int, sha256: str) -> StoredArtifact:
    """Return what a store says to have, if that is what was put. Raises CorruptArtifactError."""
    if (stored.size, stored.sha256) != (size, sha256):
        raise CorruptArtifactError(
            f"{stored.key!r} was stored, but the store has {stored.size:,} bytes with the hash {stored.sha256 or '?'}"
            f" in the place of {size:,} with {sha256}"
        )
    return stored
