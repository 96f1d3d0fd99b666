"""The backend `docker`: a packaged model as a container, run by docker or podman.

The folders of the run are mounted at /data/input, /data/output and /data/log; `/data` itself stays the image's. What a
killed worker leaves is found by its labels.
"""

import asyncio
import contextlib
import io
import json
import logging
import math
import os
import signal
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from runtime.batch.backend import (
    FOLDERS,
    RUN_LABEL,
    UNBUFFERED,
    WORKER_LABEL,
    Exit,
    Job,
    OnOutput,
    Prepared,
    is_gone,
    with_places,
)
from runtime.batch.engine import CALL_S, Engine, EngineRefusalError, find_engine
from runtime.batch.images import VERSION_LABEL, RegistryLogin, fetch_image
from runtime.batch.output_pipe import OutputPipe
from runtime.children import describe_exit
from runtime.errors import ModelStartError

log = logging.getLogger(__name__)

# The file in which a model may say what it has done.
METADATA = "/data/metadata.json"
PLACES = {**FOLDERS, "metadata": METADATA}
# Bytes that are copied out of a container at most: a metadata.json, and what tar adds.
MAX_METADATA_BYTES = 16 * 1024**2
# Exit code of a process that a signal has ended: this and the signal's number.
SIGNAL_CODE = 128
# Seconds between two looks at whether a container has started, which an engine tells in no other way.
LOOK_EVERY_S = 0.1
# Bytes of an engine's last words that go into an error.
LAST_WORDS = 1000


@dataclass(frozen=True, slots=True)
class HostFolder:
    """Where the engine has the folder `here`, for a worker that is a container itself."""

    here: Path
    there: Path


class ContainerBackend:
    """Starts containers. The engine is looked for until one answers, and then stays."""

    def __init__(
        self,
        *,
        engine: str = "auto",
        user: Literal["worker", "image"] = "worker",
        read_only: bool = False,
        login: RegistryLogin | None = None,
        host_folder: HostFolder | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """engine: `docker`, `podman` or `auto`. user: whom models run as. read_only: their root.

        host_folder: for a worker that is a container. environ: of the engine's processes.
        """
        self._name = engine
        self._user = user
        self._read_only = read_only
        self._login = login
        self._host_folder = host_folder
        self._environ = environ
        self._engine: Engine | None = None
        # By run: a tag may be moved between the answer to `prepare` and the start.
        self._images: dict[str, str] = {}

    async def prepare(self, job: Job) -> Prepared:
        image = await fetch_image(await self._find(), job.image, self._login)
        self._images[job.run_id] = image.id
        version = job.version or image.labels.get(VERSION_LABEL) or image.digest
        return Prepared(version=version, digest=image.digest, labels=image.labels)

    async def start(self, job: Job, on_output: OnOutput) -> "ContainerRun":
        engine = await self._find()
        name = f"krt-{job.run_id}"
        image = self._images.pop(job.run_id, job.image)
        command = with_places((*job.command, *job.arguments), PLACES)
        arguments = ["create", "--name", name, *self._options(job, engine), image, *command]
        # One that an earlier attempt has left, of a worker that may have been on another host.
        await remove_container(engine, name)
        try:
            await engine.call(*arguments)
            return await ContainerRun.begin(engine, name, job, on_output)
        except EngineRefusalError as error:
            await remove_container(engine, name)
            raise ModelStartError(f"{job.image}: {error}") from error
        except BaseException:
            await remove_container(engine, name)
            raise

    async def recover(self, worker: str) -> None:
        engine = await self._find()
        found = await engine.call("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={WORKER_LABEL}")
        for container in found.decode().split():
            said = await inspect(engine, container)
            owner = said["Config"]["Labels"].get(WORKER_LABEL, "") if said else worker
            if owner != worker and is_gone(owner):
                log.warning("container %s is of a dead worker", container, extra={"action": "run-recover"})
                await remove_container(engine, container)

    async def _find(self) -> Engine:
        if self._engine is None:
            self._engine = await find_engine(self._name, self._environ)
        return self._engine

    def _options(self, job: Job, engine: Engine) -> Iterator[str]:
        """Yield what a container is made with, all but its image and command."""
        labels = {**job.labels, RUN_LABEL: job.run_id, WORKER_LABEL: job.worker}
        yield from (f"--label={key}={value}" for key, value in labels.items())
        yield from (f"--env={key}={value}" for key, value in {**UNBUFFERED, **job.environment}.items())
        for path, target in zip((job.input, job.output, job.log), FOLDERS.values(), strict=True):
            yield f"--mount=type=bind,source={self._host_path(path)},target={target}"
        # The output is kept by the worker; an engine's own copy would fill its disk.
        yield from ("--pull=never", "--log-driver=none", "--security-opt=no-new-privileges")
        if self._read_only:
            yield from ("--read-only", "--tmpfs=/tmp")
        if self._user == "worker":
            yield f"--user={os.getuid()}:{os.getgid()}"
            if engine.program == "podman" and os.geteuid() != 0:
                yield "--userns=keep-id"
        yield from _limits(job, engine)

    def _host_path(self, path: Path) -> Path:
        if self._host_folder is None:
            return path
        return self._host_folder.there / path.relative_to(self._host_folder.here)


def _limits(job: Job, engine: Engine) -> Iterator[str]:
    limits = job.limits
    yield f"--network={limits.network}"
    if limits.cpu:
        yield f"--cpus={limits.cpu:g}"
    if limits.memory_bytes:
        # No swap beside: the limit is of both.
        yield from (f"--memory={limits.memory_bytes}", f"--memory-swap={limits.memory_bytes}")
    if limits.pids:
        yield f"--pids-limit={limits.pids}"
    if limits.gpu and engine.program == "docker":
        yield f"--gpus={limits.gpu}"
    elif limits.gpu:
        yield from (f"--device=nvidia.com/gpu={number}" for number in range(limits.gpu))


class ContainerRun:
    """See `Running`. A command of the engine is attached to the container, and brings its output."""

    def __init__(
        self, engine: Engine, name: str, job: Job, attached: asyncio.subprocess.Process, pipes: Sequence[OutputPipe]
    ) -> None:
        """Made by `begin`."""
        self._engine = engine
        self._name = name
        self._job = job
        self._attached = attached
        self._pipes = pipes
        self._ended: asyncio.Task[Exit] | None = None
        self._stopped = False

    @classmethod
    async def begin(cls, engine: Engine, name: str, job: Job, on_output: OnOutput) -> "ContainerRun":
        """Start a container that was created. Raises EngineRefusalError, BackendUnavailableError."""
        last_words = bytearray()

        def on_error(data: bytes) -> None:
            last_words.extend(data)
            del last_words[:-LAST_WORDS]
            on_output("stderr", data)

        pipes = [await OutputPipe.open(partial(on_output, "stdout")), await OutputPipe.open(on_error)]
        try:
            attached = await asyncio.create_subprocess_exec(
                engine.program, "start", "--attach", name,
                stdin=subprocess.DEVNULL, stdout=pipes[0].write_fd, stderr=pipes[1].write_fd,
                env=engine.environ, start_new_session=True,
            )  # fmt: skip
        except BaseException:
            for pipe in pipes:
                pipe.close()
            raise
        finally:
            for pipe in pipes:
                pipe.close_write_end()
        run = cls(engine, name, job, attached, pipes)
        try:
            if not await run._has_started():
                raise engine.refusal(bytes(last_words))
        except BaseException:
            await run._detach()
            raise
        run._ended = asyncio.create_task(run._watch(), name=f"run {job.run_id}")
        return run

    async def wait(self) -> Exit:
        assert self._ended is not None
        return await asyncio.shield(self._ended)

    async def stop(self, grace_s: float) -> None:
        self._stopped = True
        seconds = math.ceil(grace_s)
        try:
            await self._engine.call("stop", "--time", str(seconds), self._name, timeout_s=seconds + CALL_S)
        except EngineRefusalError as error:  # it has ended, or was removed, meanwhile
            log.debug("%s was not stopped: %s", self._name, error)
        await self.wait()

    async def remove(self) -> None:
        self._stopped = True
        await remove_container(self._engine, self._name)
        await self._detach()
        if self._ended is not None:
            await asyncio.wait([self._ended])

    async def _has_started(self) -> bool:
        while True:
            ended = self._attached.returncode is not None
            said = await inspect(self._engine, self._name)
            if said is None or said["State"]["Status"] not in ("created", "configured", "initialized"):
                # docker calls one that it could not start `created`, too; podman does so, or says `exited` at once.
                return said is not None and _was_started(said)
            if ended:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._attached.wait()

    async def _watch(self) -> Exit:
        await self._attached.wait()
        for pipe in self._pipes:
            await pipe.drain()
        said = await inspect(self._engine, self._name)
        if said is not None and said["State"]["Running"]:
            # The engine has let go of us, as a daemon does that is restarted; what follows is not heard.
            log.warning("the output of %s is cut off: %s was restarted", self._name, self._engine.program)
            await self._engine.call("wait", self._name, timeout_s=None)
            said = await inspect(self._engine, self._name)
        if said is None:
            return Exit(code=None, signal=signal.SIGKILL.name, detail="the container was removed while it ran")
        await self._copy_metadata()
        return _exit(said["State"], self._job, self._stopped)

    async def _copy_metadata(self) -> None:
        """Take the model's metadata.json out of the container; links and folders of this name are none."""
        archive = await self._engine.copy_out(self._name, METADATA, MAX_METADATA_BYTES)
        with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            member = tar.next()
            file = tar.extractfile(member) if member is not None and member.isreg() else None
            if file is not None:
                self._job.metadata.write_bytes(file.read())

    async def _detach(self) -> None:
        if self._attached.returncode is None:
            self._attached.kill()
        await self._attached.wait()
        for pipe in self._pipes:
            pipe.close()


async def inspect(engine: Engine, container: str) -> dict[str, Any] | None:
    """Return what the engine knows of a container, None if there is none."""
    try:
        (said,) = json.loads(await engine.call("container", "inspect", container))
    except EngineRefusalError:
        return None
    found: dict[str, Any] = said
    return found


async def remove_container(engine: Engine, container: str) -> None:
    """End a container and remove it, if there is one."""
    for command in (("kill", container), ("rm", "--force", "--volumes", container)):
        try:
            await engine.call(*command)
        except EngineRefusalError as error:  # it does not run, or there is none
            log.debug("%s %s: %s", command[0], container, error)


def _was_started(said: dict[str, Any]) -> bool:
    # The beginning of Go's calendar stands for "never".
    return not str(said["State"]["StartedAt"]).startswith("0001-")


def _exit(state: dict[str, Any], job: Job, stopped: bool) -> Exit:
    """Return how the container has ended. A code above 128 counts as the signal that shells make it of."""
    code = int(state["ExitCode"])
    ended_by = describe_exit(SIGNAL_CODE - code) if code > SIGNAL_CODE else ""
    # Not every engine sees every kill for memory; nobody else is known to send this signal.
    killed = ended_by == signal.SIGKILL.name and bool(job.limits.memory_bytes) and not stopped
    out_of_memory = (code != 0 and bool(state.get("OOMKilled"))) or killed
    if out_of_memory:
        detail = f"out of memory: more than the {job.limits.memory_bytes} bytes that it may use"
    elif ended_by:
        detail = f"ended by {ended_by}"
    else:
        detail = describe_exit(code) if code else ""
    return Exit(code=None if ended_by else code, signal=ended_by, out_of_memory=out_of_memory, detail=detail)
