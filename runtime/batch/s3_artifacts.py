"""Artifacts in S3, or in what speaks its protocol. The only file that knows boto3, which works in threads.

Credentials, region and address are boto3's own: variables (`AWS_ENDPOINT_URL_S3` for another address), files, roles.
A large artifact goes in parts, each with its SHA-256, so that S3 refuses what has changed on the way. The hash of the
whole is the object's metadata.
"""

import asyncio
import base64
import hashlib
import logging
import math
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from runtime.batch.artifacts import (
    ArtifactNotFoundError,
    StoredArtifact,
    check_key,
    checked,
    confirmed,
)
from runtime.batch.files import PIECE_BYTES
from runtime.errors import ConfigError, StoreError, StoreUnavailableError

try:
    # None of these has types.
    import boto3  # type: ignore[import-untyped]
    from botocore import exceptions  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]
except ModuleNotFoundError as error:
    raise ConfigError("artifacts in S3 need boto3: install krt-runtime[s3]") from error

log = logging.getLogger(__name__)

T = TypeVar("T")

# Bytes of a part, two of which are in memory at once; and parts of one object that S3 takes.
PART_BYTES = 8 * 1024**2
MAX_PARTS = 10_000
# Seconds for a connection and for an answer; and tries of one request, with growing pauses between.
CONNECT_S, ANSWER_S, TRIES = 10, 60, 4
# Metadata of an object: SHA-256 of the whole, as hex.
SHA256 = "sha256"
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_PASSING_CODES = frozenset({"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling"})
# No connection, no answer in time, broken off.
_NO_ANSWER = (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError)


class S3Artifacts:
    """See `artifacts.ArtifactStore`."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        """client: boto3's, of S3. prefix: what all keys begin with in the bucket, with a "/" at its end, or ""."""
        self._client = client
        self._bucket = bucket
        self._prefix = prefix

    @classmethod
    def open(cls, location: str) -> "S3Artifacts":
        """Open `s3://bucket/prefix`; nothing is asked yet. Raises ConfigError."""
        parts = urlsplit(location)
        if not parts.netloc:
            raise ConfigError(f'"{location}" names no bucket; write s3://bucket/prefix')
        config = Config(
            connect_timeout=CONNECT_S, read_timeout=ANSWER_S, retries={"mode": "standard", "total_max_attempts": TRIES}
        )
        prefix = parts.path.strip("/")
        with _asking(location):
            client = boto3.client("s3", config=config)
        return cls(client, parts.netloc, f"{prefix}/" if prefix else "")

    async def put(self, key: str, pieces: AsyncIterable[bytes], *, size: int, sha256: str) -> StoredArtifact:
        check_key(key)
        parts = _in_parts(checked(key, pieces, size=size, sha256=sha256), part_bytes(size))
        if size <= PART_BYTES:
            # Gathered before it is sent: pieces that are not as said are never an object.
            body = b"".join([part async for part in parts])
            await self._ask("put_object", key, Body=body, ChecksumSHA256=_checksum(body), Metadata={SHA256: sha256})
        else:
            await self._put_parts(key, parts, sha256)
        return confirmed(await self.stat(key), size=size, sha256=sha256)

    async def stat(self, key: str) -> StoredArtifact:
        check_key(key)
        head = await self._ask("head_object", key)
        return StoredArtifact(key=key, size=head["ContentLength"], sha256=head["Metadata"].get(SHA256, ""))

    async def get(self, key: str) -> AsyncIterator[bytes]:
        check_key(key)
        answer = await self._ask("get_object", key)
        pieces = self._read(key, answer["Body"])
        sha256 = answer["Metadata"].get(SHA256, "")
        async for piece in checked(key, pieces, size=answer["ContentLength"], sha256=sha256):
            yield piece

    async def delete(self, key: str) -> None:
        check_key(key)
        await self._ask("delete_object", key)

    async def list(self, prefix: str = "") -> Sequence[StoredArtifact]:
        keys = await _in_thread(prefix, self._keys, prefix)
        return [await self.stat(key) for key in sorted(keys)]

    async def close(self) -> None:
        self._client.close()

    def _keys(self, prefix: str) -> Sequence[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        return [each["Key"].removeprefix(self._prefix) for page in pages for each in page.get("Contents", ())]

    async def _put_parts(self, key: str, parts: AsyncIterator[bytes], sha256: str) -> None:
        begun = await self._ask("create_multipart_upload", key, ChecksumAlgorithm="SHA256", Metadata={SHA256: sha256})
        upload = {"UploadId": begun["UploadId"]}
        done: list[dict[str, Any]] = []
        try:
            async for part in parts:
                said = {"PartNumber": len(done) + 1, "ChecksumSHA256": _checksum(part)}
                answer = await self._ask("upload_part", key, **upload, **said, Body=part)
                done.append({**said, "ETag": answer["ETag"]})
            await self._ask("complete_multipart_upload", key, **upload, MultipartUpload={"Parts": done})
        except BaseException:  # cancelled, too: parts that belong to nothing are paid for
            await asyncio.shield(self._abort(key, upload))
            raise

    async def _abort(self, key: str, upload: dict[str, str]) -> None:
        """Remove the parts of an upload; the bucket's own rule for unfinished ones has those that stay."""
        try:
            await self._ask("abort_multipart_upload", key, **upload)
        except StoreError as error:
            log.warning("parts of %s stay in S3: %s", key, error, extra={"action": "parts-left"})

    async def _read(self, key: str, body: Any) -> AsyncIterator[bytes]:
        try:
            while piece := await _in_thread(key, body.read, PIECE_BYTES):
                yield piece
        finally:
            body.close()

    async def _ask(self, operation: str, key: str, **said: Any) -> Any:
        request = getattr(self._client, operation)
        return await _in_thread(key, lambda: request(Bucket=self._bucket, Key=self._prefix + key, **said))


def part_bytes(size: int) -> int:
    """Return how large the parts of an artifact are, so that S3 takes all of them."""
    return max(PART_BYTES, math.ceil(size / MAX_PARTS))


async def _in_parts(pieces: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """Yield the same bytes in parts of `size`, the last one excepted."""
    begun = bytearray()
    async for piece in pieces:
        begun += piece
        while len(begun) >= size:
            part = bytes(begun[:size])
            del begun[:size]
            yield part
    if begun:
        yield bytes(begun)


def _checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


async def _in_thread(key: str, function: Callable[..., T], *arguments: object) -> T:
    with _asking(key):
        return await asyncio.to_thread(function, *arguments)


@contextmanager
def _asking(what: str) -> Iterator[None]:
    """Turn boto3's errors into those of stores."""
    try:
        yield
    except exceptions.ClientError as error:
        code = error.response["Error"].get("Code", "")
        status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
        if code in _MISSING:
            raise ArtifactNotFoundError(f"there is no artifact {what!r}") from error
        passes = code in _PASSING_CODES or status >= 500 or status == 429
        raise (StoreUnavailableError if passes else StoreError)(f"S3 refuses {what!r}: {error}") from error
    except _NO_ANSWER as error:
        raise StoreUnavailableError(f"S3 gives no answer for {what!r}: {error}") from error
    except exceptions.BotoCoreError as error:  # no credentials, no region
        raise StoreError(f"S3 cannot be used: {error}") from error
