import os

import pytest

from runtime.batch.artifacts import Visibility, artifact_key, check_key, visibility_of
from runtime.batch.files import text_of
from runtime.spec.batch import ArtifactRules

RESULTS = "simulation-runs/0f"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"output/data.json", "output/data.json"),
        ("größe €".encode(), "größe €"),
        (b"caf\xe9", "caf\\xe9"),
        (b"caf\\xe9", "caf\\\\xe9"),
        (b"two\nlines", "two\\x0alines"),
        (b"\x1b[2J", "\\x1b[2J"),
        ("\x85".encode(), "\\u0085"),
        (b"\x85", "\\x85"),
    ],
)
def test_a_path_becomes_text_that_can_be_shown_and_stored(path: bytes, text: str) -> None:
    assert text_of(os.fsdecode(path)) == text


@pytest.mark.parametrize("path", ["export.zip", "output/two words.json", "log/\u00a0", "output/" + "x" * 255])
def test_the_key_of_a_file_shows_its_path(path: str) -> None:
    key = artifact_key(RESULTS, "public", path)

    assert key == f"{RESULTS}/public/{path}"
    check_key(key)


@pytest.mark.parametrize("path", ["output/" + "é" * 128, "output/" + "deep/" * 250 + "file"])
def test_a_path_too_long_for_a_key_has_one_of_its_own(path: str) -> None:
    key, other = artifact_key(RESULTS, "private", path), artifact_key(RESULTS, "private", path + "x")

    check_key(key)
    assert key.startswith(f"{RESULTS}/private/long/")
    assert key != other


@pytest.mark.parametrize(
    ("path", "visibility"),
    [
        ("output/data.json", "public"),
        ("export.zip", "public"),
        ("output/maps/day 1.png", "public"),
        ("output/maps/two\nlines.png", "public"),
        ("output/maps/deep/day.png", "private"),
        ("output/maps/secret.png", "private"),
        ("output/other.json", "private"),
        ("log/stdout.log", "private"),
        ("xoutput/data.json", "private"),
    ],
)
def test_a_file_is_public_only_if_a_pattern_says_so_and_none_says_private(path: str, visibility: Visibility) -> None:
    rules = ArtifactRules(
        public=("output/data.json", "export.zip", "output/maps/*"), private=("log/**", "**/secret.png")
    )

    assert visibility_of(path, rules) == visibility
