"""Podman with a store of its own, and a stand-in for the base images that only a container registry has.

Nothing of the user's own podman is touched: configuration, images and containers lie in one folder, which `close`
removes.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

# Each is called like its Debian package.
PROGRAMS = ("podman", "runc", "netavark", "aardvark-dns", "iptables", "debootstrap")
# Where podman has the programs that only it calls.
HELPERS = "/usr/lib/podman:/usr/libexec/podman"
DISTRIBUTION = "bookworm"
# What the true base images have, and the stand-in needs: of Python, and of NATS for its health check.
PACKAGES = ("python3", "python3-venv", "ca-certificates", "wget")
# The authorities of this machine; the stand-in knows only the public ones.
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
# Seconds for debootstrap, which takes 40.
BOOTSTRAP_S = 240

# No right to raise limits, no cgroup layout that crun accepts, no systemd: each line answers an error of one of them.
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
infra_image = "{pause}"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""


def missing() -> str:
    """Return what this machine lacks for the tests of containers, "" if it lacks nothing."""
    if os.geteuid() != 0:
        return "root is needed: debootstrap and podman's storage ask for it"
    path = f"{os.environ.get('PATH', os.defpath)}:{HELPERS}"
    lacking = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    return f"not installed: {', '.join(lacking)} (apt-get install {' '.join(lacking)})" if lacking else ""


# Image of the container that holds a pod together; podman's own is made of a program that is not there.
PAUSE = "localhost/pause"


class Podman:
    """One podman, from the folder of its data to its end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        configuration, storage = folder / "containers.conf", folder / "storage.conf"
        configuration.write_text(CONFIGURATION.format(folder=folder, pause=PAUSE))
        storage.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder / "graph"}"\nrunroot = "{folder / "run"}"\n'
        )
        self._environment = {
            **os.environ,
            "CONTAINERS_CONF": str(configuration),
            "CONTAINERS_STORAGE_CONF": str(storage),
        }

    @property
    def environment(self) -> Mapping[str, str]:
        """What a program has to have for its podman to be this one."""
        return self._environment

    def import_base(self, name: str) -> None:
        """Make the stand-in: Debian's smallest system with Python, as an image of this name.

        Raises subprocess.SubprocessError where debootstrap finds no packages, or may not do what it has to.
        """
        root = self._folder / "root"
        bootstrap = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", DISTRIBUTION, str(root)]
        subprocess.run(bootstrap, check=True, stdout=subprocess.DEVNULL, timeout=BOOTSTRAP_S)
        # As the official image has it.
        (root / "usr/bin/python").symlink_to("python3")
        archive = self._folder / "root.tar"
        subprocess.run(["tar", "--directory", str(root), "--create", "--file", str(archive), "."], check=True)
        self.run("import", "--quiet", str(archive), name)
        archive.unlink()

    def build(self, dockerfile: str, name: str, *, context: Path, arguments: Mapping[str, str]) -> None:
        """Build an image; no base is pulled. arguments: of the Dockerfile, by name."""
        build_arguments = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        authorities = [f"--volume={AUTHORITIES}:{AUTHORITIES}:ro", f"--env=PIP_CERT={AUTHORITIES}"]
        options = ["--pull=never", "--format=docker", "--network=host", *authorities, *build_arguments]
        self.run("build", *options, f"--file={dockerfile}", f"--tag={name}", str(context))

    def build_pause(self, base: str, folder: Path) -> None:
        """Build what pods need. folder: for its Dockerfile."""
        dockerfile = folder / "Dockerfile.pause"
        dockerfile.write_text(f'FROM {base}\nENTRYPOINT ["sleep", "infinity"]\n')
        self.build(str(dockerfile), PAUSE, context=folder, arguments={})

    def run(self, *arguments: str) -> str:
        """Run a podman command, and return what it printed. A failure shows its output."""
        return self.call("podman", *arguments)

    def call(self, *command: str, variables: Mapping[str, str] | None = None) -> str:
        """Run a program that calls podman, as `run` does. variables: for its environment."""
        done = subprocess.run(
            command,
            env={**self._environment, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def wait_for_line(self, container: str, ending: str) -> None:
        """Return when the container has written a line with this ending; fails with its log when it ends before."""
        lines = []
        with subprocess.Popen(
            ["podman", "logs", "--follow", container],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as following:
            assert following.stdout is not None
            for line in following.stdout:
                lines.append(line)
                if line.rstrip().endswith(ending):
                    following.terminate()
                    return
        raise AssertionError(f"container {container} has ended:\n{''.join(lines)}")

    def close(self) -> None:
        """End every container, and remove all data. A podman that never worked has nothing to end."""
        # With both variables set; without them it would wipe the images of the user.
        reset = ["podman", "system", "reset", "--force"]
        subprocess.run(reset, env=self._environment, stdin=subprocess.DEVNULL, capture_output=True)
        shutil.rmtree(self._folder)
