import os
import zipfile
from pathlib import Path

import pytest

from runtime.batch.archive import write_archive
from runtime.batch.files import NoRegularFileError, text_of


def make_files(root: Path, names: list[str]) -> dict[str, Path]:
    """Write a file for each name, whose content is its name, and return them by their names."""
    files = {name: root / name for name in names}
    for name, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    return files


def test_equal_files_give_equal_bytes_whatever_their_order_and_times(tmp_path: Path) -> None:
    names = ["output/data.json", "input/inputFile.json", "output/a/b.txt"]
    one = make_files(tmp_path / "one", names)
    other = make_files(tmp_path / "other", names[::-1])
    os.utime(other["output/data.json"], (1, 1))
    other["output/data.json"].chmod(0o777)

    write_archive(tmp_path / "one.zip", one)
    write_archive(tmp_path / "other.zip", other)

    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "other.zip").read_bytes()


def test_an_archive_holds_every_file_sorted_by_name(tmp_path: Path) -> None:
    files = make_files(tmp_path, ["output/b", "output/a", "input/c"])

    write_archive(tmp_path / "export.zip", files)

    with zipfile.ZipFile(tmp_path / "export.zip") as archive:
        assert archive.namelist() == ["input/c", "output/a", "output/b"]
        assert archive.read("output/a") == b"output/a"
        assert archive.testzip() is None


def test_an_archive_of_nothing_is_one(tmp_path: Path) -> None:
    write_archive(tmp_path / "export.zip", {})

    with zipfile.ZipFile(tmp_path / "export.zip") as archive:
        assert archive.namelist() == []


def test_names_with_spaces_newlines_and_broken_bytes_stay_apart(tmp_path: Path) -> None:
    broken = os.fsdecode(b"output/caf\xe9")
    files = make_files(tmp_path, [broken, "output/caf\\xe9", "output/two\nlines", "output/größe €", "output/a b"])

    write_archive(tmp_path / "export.zip", {text_of(name): path for name, path in files.items()})

    with zipfile.ZipFile(tmp_path / "export.zip") as archive:
        assert set(archive.namelist()) == {
            "output/caf\\xe9", "output/caf\\\\xe9", "output/two\\x0alines", "output/größe €", "output/a b",
        }  # fmt: skip
        assert archive.read("output/caf\\xe9") == b"output/caf\xe9"


def test_a_link_in_the_place_of_a_file_is_not_followed_and_leaves_no_archive(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")

    with pytest.raises(NoRegularFileError, match="link"):
        write_archive(tmp_path / "export.zip", {"output/link": tmp_path / "link"})

    assert not (tmp_path / "export.zip").exists()


def test_a_fifo_in_the_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(NoRegularFileError, match="pipe"):
        write_archive(tmp_path / "export.zip", {"output/pipe": tmp_path / "pipe"})


def test_a_file_that_goes_while_it_is_archived_leaves_no_archive(tmp_path: Path) -> None:
    files = make_files(tmp_path, ["output/a"])

    with pytest.raises(FileNotFoundError):
        write_archive(tmp_path / "export.zip", {**files, "output/b": tmp_path / "gone"})

    assert not (tmp_path / "export.zip").exists()


def test_entries_are_of_the_form_for_more_than_four_gigabytes(tmp_path: Path) -> None:
    write_archive(tmp_path / "export.zip", make_files(tmp_path, ["output/a"]))

    with zipfile.ZipFile(tmp_path / "export.zip") as archive:
        assert archive.infolist()[0].extract_version >= zipfile.ZIP64_VERSION
