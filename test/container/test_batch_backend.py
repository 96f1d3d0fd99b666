"""Runs the suite of batch backends on containers, and tests what only containers have to show."""

import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from runtime.batch.backend import Backend, JobLimits
from runtime.batch.container import ContainerBackend, HostFolder
from runtime.batch.images import RegistryLogin
from runtime.errors import BackendUnavailableError, PullError
from test.conformance.batch import backend_suite
from test.conformance.batch.backend_suite import Outputs, job, run, start
from test.container.conftest import BASE
from test.container.podman import Podman
from test.container.registry import Registry

pytestmark = pytest.mark.container


class ContainerBench:
    def __init__(self, podman: Podman, folder: Path, **options: Any) -> None:
        environment = {**podman.environment, "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf")}
        self.backend: Backend = ContainerBackend(engine="podman", environ=environment, **options)
        self.folder = folder
        self.podman = podman
        self.registry = Registry()
        folder.mkdir(exist_ok=True)
        (folder / "registries.conf").write_text(
            f'[[registry]]\nlocation = "{self.registry.address}"\ninsecure = true\n'
        )

    def package(self) -> dict[str, Any]:
        return {"image": BASE}

    def missing_package(self) -> dict[str, Any]:
        return {"image": f"{self.registry.address}/absent:1"}

    def unstartable_package(self) -> dict[str, Any]:
        return {"command": ("/broken",)}

    def worker_arguments(self) -> list[str]:
        return ["podman"]

    def worker_environment(self) -> Mapping[str, str]:
        return self.podman.environment

    def containers(self) -> list[str]:
        return self.podman.run("ps", "--all", "--quiet").split()


@pytest.fixture
def make_bench(podman: Podman, tmp_path: Path) -> Iterator[Callable[..., ContainerBench]]:
    """Make a bench with options of its backend."""
    with ExitStack() as cleanup:

        def make(folder: Path = tmp_path, **options: Any) -> ContainerBench:
            made = ContainerBench(podman, folder, **options)
            cleanup.callback(made.registry.close)
            return made

        yield make


@pytest.fixture
def bench(make_bench: Callable[..., ContainerBench]) -> ContainerBench:
    return make_bench()


@pytest.mark.parametrize("check", backend_suite.SUITE, ids=lambda check: check.__name__)
async def test_containers_conform(
    check: Callable[[backend_suite.Bench], Awaitable[None]], bench: ContainerBench
) -> None:
    await check(bench)

    assert bench.containers() == []


async def test_a_code_above_128_counts_as_a_signal(bench: ContainerBench) -> None:
    ended, _, _ = await run(bench, "sh -c 'kill -SEGV $$'; exit $?")

    assert (ended.code, ended.signal, ended.detail) == (None, "SIGSEGV", "ended by SIGSEGV")


async def test_an_image_runs_without_arguments(bench: ContainerBench) -> None:
    podman = bench.podman
    dockerfile = bench.folder / "Dockerfile"
    dockerfile.write_text(
        f"FROM {BASE}\n"
        'LABEL org.opencontainers.image.version="1.2.3" krt.connector.version="0.9.1"\n'
        'CMD ["/bin/sh", "-c", "cp /data/input/inputFile.json /data/output/data.json"]\n'
    )
    podman.build(str(dockerfile), "localhost/model:1", context=bench.folder, arguments={})
    made = job(bench, image="localhost/model:1", command=())
    (made.input / "inputFile.json").write_text("{}")

    prepared = await bench.backend.prepare(made)
    running = await bench.backend.start(made, Outputs().add)

    assert (await running.wait()).code == 0
    await running.remove()
    assert (made.output / "data.json").read_text() == "{}"
    assert (prepared.version, prepared.labels["krt.connector.version"]) == ("1.2.3", "0.9.1")


async def test_a_container_has_no_network_and_no_folder_of_the_host_but_its_own(bench: ContainerBench) -> None:
    _, outputs, _ = await run(bench, "ls /sys/class/net /data; mount | grep -c ' /data '")

    assert bytes(outputs.pieces["stdout"]).split() == [
        b"/data:", b"input", b"log", b"output", b"/sys/class/net:", b"lo", b"0"
    ]  # fmt: skip


async def test_a_container_gets_no_privileges_that_it_was_not_started_with(bench: ContainerBench) -> None:
    _, outputs, _ = await run(bench, "grep NoNewPrivs /proc/self/status")

    assert bytes(outputs.pieces["stdout"]).split() == [b"NoNewPrivs:", b"1"]


async def test_the_limits_are_those_of_the_engine(bench: ContainerBench) -> None:
    limits = JobLimits(cpu=0.5, memory_bytes=128_000_000, pids=50)
    running, outputs, made = await start(bench, "trap 'exit 0' TERM; echo ready; sleep 1000", limits=limits)
    await outputs.see(b"ready")

    said = bench.podman.run(
        "inspect", "--format={{.HostConfig.NanoCpus}} {{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}",
        f"krt-{made.run_id}",
    )  # fmt: skip

    assert said.split() == ["500000000", "128000000", "50"]
    await running.remove()


async def test_a_root_that_is_read_only_leaves_the_folders_writable(make_bench: Callable[..., ContainerBench]) -> None:
    bench = make_bench(read_only=True)

    ended, outputs, made = await run(bench, "touch /anywhere; touch /tmp/scratch {output}/done")

    assert ended.code == 0
    assert b"Read-only file system" in outputs.pieces["stderr"]
    assert (made.output / "done").exists()


async def test_a_worker_in_a_container_mounts_the_folders_of_the_host(
    make_bench: Callable[..., ContainerBench], tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    bench = make_bench(here, host_folder=HostFolder(here, there))
    folders = job(bench).input.parent.relative_to(here)
    (here / folders).rename(tmp_path / "moved")
    there.mkdir()
    (tmp_path / "moved").rename(there / folders)

    ended, _, made = await run(bench, "touch {output}/done")

    assert ended.code == 0
    assert (there / folders / "output/done").exists()
    assert not (made.output / "done").exists()


async def test_a_metadata_json_that_links_to_a_file_of_the_host_is_none(bench: ContainerBench) -> None:
    secret = bench.folder / "secret"
    secret.write_text("of the host")

    _, _, made = await run(bench, f"ln -s {secret} {{metadata}}")

    assert not made.metadata.exists()


async def test_a_container_that_somebody_removes_is_told(bench: ContainerBench) -> None:
    running, outputs, made = await start(bench, "echo ready; sleep 1000")
    await outputs.see(b"ready")

    bench.podman.run("rm", "--force", "--time=0", f"krt-{made.run_id}")

    assert (await running.wait()).detail == "the container was removed while it ran"
    await running.remove()


async def test_an_image_is_pulled_with_its_login_and_known_by_its_digest(
    make_bench: Callable[..., ContainerBench],
) -> None:
    bench = make_bench(login=RegistryLogin("krt", "secret"))
    bench.registry.serve(small_image(bench.podman, bench.folder), login="krt:secret")
    name = f"{bench.registry.address}/models/small:1"

    prepared = await bench.backend.prepare(job(bench, image=name))
    again = await bench.backend.prepare(job(bench, image=f"{bench.registry.address}/models/small@{prepared.digest}"))

    assert (prepared.digest, again.digest) == (bench.registry.digest, bench.registry.digest)
    bench.podman.run("image", "rm", "--force", name)


async def test_a_registry_that_refuses_the_login_refuses_the_pull(bench: ContainerBench) -> None:
    bench.registry.serve(small_image(bench.podman, bench.folder), login="krt:secret")

    with pytest.raises(PullError, match="cannot be pulled"):
        await bench.backend.prepare(job(bench, image=f"{bench.registry.address}/models/small:1"))


async def test_a_registry_that_does_not_answer_is_unavailable(bench: ContainerBench) -> None:
    bench.registry.close()

    with pytest.raises(BackendUnavailableError, match="connection refused"):
        await bench.backend.prepare(job(bench, image=f"{bench.registry.address}/models/small:1"))


def small_image(podman: Podman, folder: Path) -> Path:
    """Return an image of one file, as the files that a registry has."""
    subprocess.run(["tar", "--create", "--file", str(folder / "small.tar"), "registries.conf"], cwd=folder, check=True)
    podman.run("import", "--quiet", str(folder / "small.tar"), "localhost/small:1")
    podman.run("save", "--quiet", "--format=oci-dir", "--output", str(folder / "small"), "localhost/small:1")
    podman.run("image", "rm", "localhost/small:1")
    return folder / "small"
