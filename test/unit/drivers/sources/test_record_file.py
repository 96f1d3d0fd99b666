"""A file read by its records: grown, truncated, replaced and renamed under the reader, and found again after it."""

from pathlib import Path

import pytest

from runtime.drivers.sources import record_file
from runtime.drivers.sources.record_file import Place, RecordFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"one\ntwo\nthree\n")
    return path


def read(file: RecordFile, *, to_the_end: bool = False) -> list[bytes]:
    return [record.data for record in file.read(to_the_end=to_the_end)]


def opened(path: Path, place: Place | None = None) -> tuple[RecordFile, str]:
    file = RecordFile(path, place=place)
    return file, file.open()


def test_an_unfinished_line_is_a_record_only_at_the_end(path: Path) -> None:
    path.write_bytes(b"one\ntw")
    file, _ = opened(path)

    assert read(file) == [b"one\n"]
    assert read(file) == []
    with path.open("ab") as more:
        more.write(b"o\nthr")
    assert read(file) == [b"two\n"]
    assert read(file, to_the_end=True) == [b"thr"]
    file.close()


def test_a_record_may_be_longer_than_what_is_read_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_file, "CHUNK_BYTES", 4)
    path.write_bytes(b"a" * 50 + b"\nb\n")
    file, _ = opened(path)

    found = [*read(file), *read(file), *read(file)]

    assert found == [b"a" * 50 + b"\n", b"b\n"]
    file.close()


def test_a_record_without_an_end_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_file, "CHUNK_BYTES", 4)
    monkeypatch.setattr(record_file, "MAX_RECORD_BYTES", 16)
    path.write_bytes(b"a" * 50)
    file, _ = opened(path)

    with pytest.raises(ValueError, match="at byte 0 is longer"):
        read(file)
    file.close()


def test_reading_goes_on_behind_a_place_in_the_same_file(path: Path) -> None:
    first, _ = opened(path)
    place = first.read(to_the_end=False)[1].place
    first.close()

    second, told = opened(path, place)

    assert (told, read(second)) == ("", [b"three\n"])
    second.close()


@pytest.mark.parametrize("content", [b"", b"on", b"other\nlines\nthat\nare\nlonger\n"])
def test_a_file_that_was_replaced_meanwhile_is_read_from_its_start(path: Path, content: bytes) -> None:
    first, _ = opened(path)
    place = first.read(to_the_end=False)[1].place
    first.close()
    path.write_bytes(content)

    second, told = opened(path, place)

    assert "was replaced" in told
    assert b"".join(read(second, to_the_end=True)) == content
    assert second.place.generation == 1
    second.close()


def test_the_rest_of_a_file_that_was_renamed_meanwhile_is_read_before_the_new_one(path: Path) -> None:
    first, _ = opened(path)
    place = first.read(to_the_end=False)[1].place
    first.close()
    path.rename(path.with_name("in.jsonl.1"))
    path.write_bytes(b"four\n")

    second, told = opened(path, place)

    assert "the rest of the old one" in told
    assert read(second) == [b"three\n"]
    assert "was replaced" in second.renew()
    assert read(second) == [b"four\n"]
    second.close()


def test_a_truncation_is_noticed_also_when_the_file_has_grown_beyond_it(path: Path) -> None:
    file, _ = opened(path)
    read(file)

    for content in (b"x\n", b"longer than what was there before\n"):
        path.write_bytes(content)
        assert "was truncated" in file.renew()
        assert read(file) == [content]
    assert file.renew() == ""
    file.close()


def test_the_same_record_has_another_place_after_a_truncation(path: Path) -> None:
    file, _ = opened(path)
    before = file.read(to_the_end=False)[0].place
    path.write_bytes(b"")
    file.renew()
    path.write_bytes(b"one\n")

    after = file.read(to_the_end=False)[0].place

    assert (before.digest, before.offset) == (after.digest, after.offset)
    assert before != after
    file.close()
