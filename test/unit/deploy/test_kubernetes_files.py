"""A workflow's folder in a ConfigMap."""

import base64
from pathlib import Path

import pytest

from runtime.deploy.kubernetes_files import MAX_BYTES, files_config_map, files_volume, read_files
from runtime.deploy.kubernetes_objects import Place
from runtime.errors import ConfigError

PLACE = Place(workflow="triage", version="v1", namespace="default")


def test_files_are_read_without_hidden_ones_and_bytecode(tmp_path: Path) -> None:
    kept = {"score/handler.py": b"score", "workflow.yaml": b"name: triage\n"}
    left_out = {".krt/run.json": b"{}", ".env": b"TOKEN=hush", "score/__pycache__/handler.pyc": b"\0"}
    for name, content in (kept | left_out).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)

    assert read_files(tmp_path) == kept


def test_every_file_comes_back_under_its_path() -> None:
    files = {"a/b.py": b"first", "a_b.py": b"second", "model.bin": b"\xff\x00"}

    config_map = files_config_map(PLACE, files)
    volume = files_volume(config_map, files)["configMap"]

    binary = {key: base64.b64decode(value) for key, value in config_map["binaryData"].items()}
    stored = {key: value.encode() for key, value in config_map["data"].items()} | binary
    assert volume["name"] == config_map["metadata"]["name"]
    assert {item["path"]: stored[item["key"]] for item in volume["items"]} == files
    assert len({item["key"] for item in volume["items"]}) == len(files)


def test_the_name_changes_with_the_content_and_with_nothing_else() -> None:
    def name(files: dict[str, bytes]) -> str:
        return str(files_config_map(PLACE, files)["metadata"]["name"])

    first = name({"a.py": b"1", "b.py": b"2"})

    assert first == name({"a.py": b"1", "b.py": b"2"})
    assert len({first, name({"a.py": b"1", "b.py": b"3"}), name({"a.py": b"12", "b.py": b""})}) == 3


def test_a_folder_that_is_too_large_is_refused_with_its_largest_file(tmp_path: Path) -> None:
    (tmp_path / "workflow.yaml").write_text("name: triage\n")
    (tmp_path / "weights.bin").write_bytes(b"\0" * MAX_BYTES)

    with pytest.raises(ConfigError, match=r"largest file is weights\.bin.*/workflow"):
        read_files(tmp_path)
