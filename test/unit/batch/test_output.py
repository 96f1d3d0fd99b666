"""What is found in the folders of a run that has ended, and what is refused."""

import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.batch.output import Budget, FoundFiles, find_files


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """The folder of a run, with an empty `output`."""
    (tmp_path / "run/output").mkdir(parents=True)
    yield tmp_path / "run"
    # Which pytest cannot do where folders are nested deep.
    subprocess.run(["rm", "-rf", tmp_path / "run"], check=True)


def found_in(root: Path, *, most_bytes: int = 10_000, most_files: int = 100) -> FoundFiles:
    return find_files(root, "output", Budget(most_bytes, most_files))


def paths(found: FoundFiles) -> list[str]:
    return [file.path for file in found.files]


def test_files_are_found_in_every_depth_in_the_order_of_their_paths(root: Path) -> None:
    (root / "output/b/c").mkdir(parents=True)
    (root / "output/b/c/deep.txt").write_text("deep")
    (root / "output/a.txt").write_text("")

    found = found_in(root)

    assert [(file.path, file.size) for file in found.files] == [("output/a.txt", 0), ("output/b/c/deep.txt", 4)]
    assert found.files[1].sha256 == hashlib.sha256(b"deep").hexdigest()
    assert (found.unsafe, found.limit) == ((), "")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"two words", "output/two words"),
        ("größe.txt".encode(), "output/größe.txt"),
        (b"new\nline", r"output/new\x0aline"),
        (b"latin-\xe9", r"output/latin-\xe9"),
        (b"-rf", "output/-rf"),
    ],
)
def test_names_are_data(root: Path, name: bytes, path: str) -> None:
    Path(os.fsdecode(os.fsencode(root / "output") + b"/" + name)).write_text("x")

    assert paths(found_in(root)) == [path]


def test_a_link_to_a_file_in_the_folder_counts_as_that_file(root: Path) -> None:
    (root / "output/run-1.json").write_text("{}")
    (root / "output/data.json").symlink_to("run-1.json")

    found = found_in(root)

    assert paths(found) == ["output/data.json", "output/run-1.json"]
    assert found.files[0].location == (root / "output/run-1.json").resolve()
    assert found.unsafe == ()


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "/etc", "../input"])
def test_a_link_that_leaves_the_folder_is_unsafe_and_other_files_are_found(root: Path, target: str) -> None:
    (root.parent / "secret").write_text("secret")
    (root / "input").mkdir()
    (root / "output/leak").symlink_to(target)
    (root / "output/good").write_text("good")

    found = found_in(root)

    assert paths(found) == ["output/good"]
    assert found.unsafe == ("output/leak is a link that leaves the folder",)


@pytest.mark.parametrize("target", ["nowhere", "loop"])
def test_a_link_that_leads_nowhere_is_unsafe(root: Path, target: str) -> None:
    (root / "output/loop").symlink_to(target)

    assert found_in(root).unsafe == ("output/loop is a link that leads nowhere",)


def test_a_folder_that_is_a_link_itself_is_not_followed(root: Path) -> None:
    (root.parent / "elsewhere").mkdir()
    (root.parent / "elsewhere/secret").write_text("secret")
    (root / "output").rmdir()
    (root / "output").symlink_to(root.parent / "elsewhere")

    found = found_in(root)

    assert (found.files, found.unsafe) == ((), ("output is no folder any more",))


def test_a_fifo_is_unsafe_and_nobody_waits_for_its_writer(root: Path) -> None:
    os.mkfifo(root / "output/pipe")

    assert found_in(root).unsafe == ("output/pipe is a FIFO",)


def test_a_socket_is_unsafe(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "output")  # the path of a socket has 107 characters
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("door")

    assert found_in(root).unsafe == ("output/door is a socket",)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_unsafe(root: Path) -> None:
    os.mknod(root / "output/zero", 0o600 | 0o020000, os.makedev(1, 5))

    assert found_in(root).unsafe == ("output/zero is a device",)


def test_a_folder_with_more_bytes_than_allowed_has_no_files(root: Path) -> None:
    (root / "output/big").write_bytes(bytes(11))

    found = found_in(root, most_bytes=10)

    assert (found.files, found.limit) == ((), "output has more bytes than a run may leave")


def test_a_folder_with_more_files_than_allowed_has_no_files(root: Path) -> None:
    for number in range(4):
        (root / f"output/{number}").touch()

    assert found_in(root, most_files=3).limit == "output has more files than a run may leave"
    assert len(found_in(root, most_files=4).files) == 4


def test_empty_folders_count_as_files_for_the_limit(root: Path) -> None:
    for number in range(4):
        (root / f"output/{number}").mkdir()

    assert found_in(root, most_files=3).limit == "output has more files than a run may leave"


def test_the_folders_of_a_run_share_one_budget(root: Path) -> None:
    (root / "log").mkdir()
    (root / "log/stdout.log").write_bytes(bytes(6))
    (root / "output/data").write_bytes(bytes(6))
    budget = Budget(bytes_left=10, files_left=10)

    logs, outputs = find_files(root, "log", budget), find_files(root, "output", budget)

    assert (paths(logs), logs.limit) == (["log/stdout.log"], "")
    assert outputs.limit == "output has more bytes than a run may leave"


def test_folders_nested_deeper_than_python_calls_are_looked_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "output")
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    Path("file").touch()

    found = found_in(root, most_files=5000)

    assert paths(found) == [f"output/{'d/' * 1500}file"]


def test_folders_nested_deeper_than_the_system_names_them_are_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "output")
    for _ in range(25):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)

    unsafe = found_in(root).unsafe

    assert unsafe
    assert {sentence.rpartition(" cannot be read: ")[2] for sentence in unsafe} == {"File name too long"}
