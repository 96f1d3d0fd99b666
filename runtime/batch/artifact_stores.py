"""Opens the artifact store that a workflow file names."""

import asyncio
from pathlib import Path

from runtime.batch.artifacts import ArtifactStore
from runtime.batch.file_artifacts import FileArtifacts
from runtime.batch.nats_artifacts import NatsArtifacts
from runtime.bus.base import Bus
from runtime.errors import ConfigError


async def open_store(location: str, *, bus: Bus, stream: str) -> ArtifactStore:
    """Open a store: `nats:<name>` of the stream's workflow, `file:///path` or `s3://bucket/prefix`.

    Raises ConfigError for a location that is none, and for a missing extra; StoreError, StoreUnavailableError.
    """
    scheme, _, rest = location.partition(":")
    if scheme == "nats" and rest:
        return await NatsArtifacts.open(bus, f"{stream}_{rest}")
    if location.startswith("file:///"):
        return FileArtifacts(Path(location.removeprefix("file://")))
    if location.startswith("s3://"):
        return await asyncio.to_thread(_open_s3, location)
    raise ConfigError(f'"{location}" is no store of artifacts; write nats:<name>, file:///path or s3://bucket/prefix')


def _open_s3(location: str) -> ArtifactStore:
    # Here, since it takes a large library along; and in a thread, since that reads files for half a second.
    from runtime.batch.s3_artifacts import S3Artifacts

    return S3Artifacts.open(location)
