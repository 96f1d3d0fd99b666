"""What has to hold for the repository as a whole: its parts are there, and nothing ties it to one machine."""

import json
import os
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]

REQUIRED_ENTRIES = [
    "runtime",
    "workflows",
    "test",
    "Pipfile",
    "Pipfile.lock",
    "pyproject.toml",
    "Makefile",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    ".gitignore",
    ".ci/run",
]
REQUIRED_PACKAGES = {"nats-py", "protobuf", "motor", "influxdb-client", "pyyaml"}
REQUIRED_DEV_PACKAGES = {"pytest"}

# Written in parts, so that this file does not itself name what it forbids.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("proxy", "golang", "org"),
        ("index", "crates", "io"),
        ("repo1", "maven", "org"),
        ("deb", "debian", "org"),
    ]
]


@pytest.mark.parametrize("entry", REQUIRED_ENTRIES)
def test_every_required_entry_exists(entry: str) -> None:
    assert (ROOT / entry).exists()


def test_the_pipfile_names_the_required_packages_and_no_index() -> None:
    pipfile = tomllib.loads((ROOT / "Pipfile").read_text())

    assert set(pipfile["packages"]) >= REQUIRED_PACKAGES
    assert set(pipfile["dev-packages"]) >= REQUIRED_DEV_PACKAGES
    assert "source" not in pipfile


def test_the_lock_holds_the_required_packages_with_hashes_and_no_index() -> None:
    lock = json.loads((ROOT / "Pipfile.lock").read_text())

    assert lock["_meta"]["sources"] == []
    assert set(lock["default"]) >= REQUIRED_PACKAGES
    assert set(lock["develop"]) >= REQUIRED_DEV_PACKAGES
    packages = lock["default"] | lock["develop"]
    assert [name for name, package in packages.items() if not package.get("hashes")] == []


def test_the_ci_script_can_be_executed() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_no_tracked_file_names_a_package_registry() -> None:
    hosts = [*REGISTRY_HOSTS, *_configured_index_hosts()]

    assert _tracked_files_containing(hosts) == []


def test_no_tracked_file_names_the_path_of_this_checkout() -> None:
    assert _tracked_files_containing([str(ROOT)]) == []


def _configured_index_hosts() -> list[str]:
    """Return the hosts of the package indexes that this machine's environment names."""
    variables = ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIPENV_PYPI_MIRROR"]
    urls = [url for variable in variables for url in os.environ.get(variable, "").split()]
    hosts = [urlsplit(url).hostname for url in urls]
    return [host for host in hosts if host]


def _tracked_files_containing(texts: list[str]) -> list[str]:
    """Return `file: text` for every tracked file that holds one of the texts."""
    return [
        f"{file}: {text}" for file in _tracked_files() for text in texts if text.encode() in (ROOT / file).read_bytes()
    ]


def _tracked_files() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout: which files are tracked is not known")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [file for file in listing.split("\0") if (ROOT / file).is_file()]
