"""What a model prints, as it is kept."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.batch.output_log import OutputLog

# 2023-11-14T22:13:20.5Z
NOW_NS = 1_700_000_000_500_000_000
TIME = "2023-11-14T22:13:20.500Z"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[OutputLog]:
    made = OutputLog(tmp_path, 1000, lambda: NOW_NS)
    yield made
    made.close()


def test_each_stream_is_kept_byte_by_byte(log: OutputLog, tmp_path: Path) -> None:
    log.write("stdout", b"a\xff\x00\r\n")
    log.write("stderr", b"no newline")
    log.close()

    assert (tmp_path / "stdout.log").read_bytes() == b"a\xff\x00\r\n"
    assert (tmp_path / "stderr.log").read_bytes() == b"no newline"


def test_the_common_file_has_whole_lines_of_both_with_their_time(log: OutputLog, tmp_path: Path) -> None:
    log.write("stdout", b"first ha")
    log.write("stderr", b"other\n")
    log.write("stdout", b"lf\nlast")
    log.note("stopped")
    log.close()

    assert (tmp_path / "runner.log").read_text().splitlines() == [
        f"{TIME} stderr | other",
        f"{TIME} stdout | first half",
        f"{TIME} runner | stopped",
        f"{TIME} stdout | last",
    ]


def test_a_file_ends_at_its_limit_and_says_how_much_is_missing(tmp_path: Path) -> None:
    log = OutputLog(tmp_path, 10)

    for _ in range(1000):
        log.write("stdout", b"123456")
    log.close()

    assert (tmp_path / "stdout.log").read_bytes() == b"1234561234\n[5990 bytes are left out]\n"
    assert (tmp_path / "stderr.log").read_bytes() == b""
    assert (tmp_path / "runner.log").stat().st_size < 100


def test_a_line_without_end_is_not_kept_in_memory(tmp_path: Path) -> None:
    log = OutputLog(tmp_path, 1_000_000, lambda: NOW_NS)

    for _ in range(3):
        log.write("stdout", bytes(65_000))

    assert (tmp_path / "runner.log").stat().st_size > 130_000
    log.close()


def test_a_full_disk_ends_the_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = OutputLog(tmp_path, 1000)
    log.write("stdout", b"kept\n")

    def refuse(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        log.write("stdout", b"lost\n")
    log.write("stdout", b"lost too\n")
    log.close()

    assert (tmp_path / "stdout.log").read_bytes() == (b"kept\n\n[14 bytes are left out; No space left on device]\n")
    assert log.fault is not None
    assert log.fault.errno == errno.ENOSPC


def test_a_file_that_is_there_already_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "stderr.log").symlink_to("secret")

    with pytest.raises(FileExistsError):
        OutputLog(tmp_path, 10)

    assert (tmp_path / "secret").read_text() == "mine"
