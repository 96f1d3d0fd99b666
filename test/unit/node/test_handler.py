"""Loading the user's module: what is accepted, and what is refused in which words."""

import dataclasses
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
from google.protobuf import any_pb2, wrappers_pb2

from runtime.errors import DecodeError, HandlerLoadError
from runtime.node.batching_handler import for_batches
from runtime.node.handler import CallKind, LoadedHandler, load_handler
from runtime.payload import encode_value
from test.support.node import write_handler


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(source: str, name: str = "handler.py", **options: Any) -> LoadedHandler:
        write_handler(tmp_path, source, name)
        return load_handler(tmp_path, name, **options)

    return load


def refusal(load: Any, source: str, **options: Any) -> str:
    with pytest.raises(HandlerLoadError) as raised:
        load(source, **options)
    assert "handler" not in sys.modules
    return str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HandlerLoadError, match=r"handler\.py: no such file; check KRT_HANDLER_PATH"):
        load_handler(tmp_path, "handler.py")


@pytest.mark.parametrize("path", ["../elsewhere/handler.py", "link.py", "linked/handler.py"])
def test_a_path_or_a_link_that_leaves_the_folder_is_refused_before_anything_is_imported(
    tmp_path: Path, path: str
) -> None:
    base, elsewhere = tmp_path / "workflow", tmp_path / "elsewhere"
    write_handler(elsewhere, "raise SystemExit('imported')")
    base.mkdir()
    (base / "link.py").symlink_to(elsewhere / "handler.py")
    (base / "linked").symlink_to(elsewhere)

    with pytest.raises(HandlerLoadError, match=r"leads to .*elsewhere/handler\.py, outside of"):
        load_handler(base, path)


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    """So does Kubernetes mount the files of a ConfigMap."""
    write_handler(tmp_path / "..data", "def handler(ctx, data): ...")
    (tmp_path / "handler.py").symlink_to(Path("..data") / "handler.py")

    assert load_handler(tmp_path, "handler.py").default is not None


def test_a_failing_import_is_told_with_place_and_the_users_frames(load: Any, tmp_path: Path) -> None:
    text = refusal(load, "import os\n\ndef boom():\n    return {}['k']\n\nboom()\ndef handler(ctx, data): ...\n")

    lines = text.splitlines()
    assert lines[0] == f"Error loading handler script {tmp_path}/handler.py:6: KeyError: 'k'"
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[2] == f'  File "{tmp_path}/handler.py", line 6, in <module>'
    assert "importlib" not in text


def test_a_syntax_error_is_told_with_its_line(load: Any, tmp_path: Path) -> None:
    text = refusal(load, "def handler(ctx, data):\n    return (\n")

    assert text.startswith(f"Error loading handler script {tmp_path}/handler.py:2: SyntaxError: ")


def test_a_module_that_exits_is_a_failing_import(load: Any) -> None:
    assert "SystemExit: 3" in refusal(load, "import sys\nsys.exit(3)")


def test_a_missing_dependency_is_named(load: Any) -> None:
    assert "ModuleNotFoundError: No module named 'not_there'" in refusal(load, "import not_there")


def test_a_module_without_a_handler_is_told_what_it_has(load: Any, tmp_path: Path) -> None:
    text = refusal(load, "def handle(ctx, data): ...\ndef init(ctx): ...\n")

    assert text == (
        f"Handler module '{tmp_path}/handler.py' must implement a function 'handler(ctx, data)'; it defines handle"
        " (alternatives: 'default_handler(ctx, data)', or 'custom_handlers = {\"node\": function}')"
    )


@pytest.mark.parametrize(
    ("source", "line", "expected"),
    [
        ("\ndef handler(ctx): ...", 2, "expected handler(ctx, data): too many positional arguments"),
        ("def handler(ctx, data, more): ...", 1, "expected handler(ctx, data): missing a required argument: 'more'"),
        ("def handler(ctx, data): ...\ndef init(): ...", 2, "expected init(ctx): too many positional arguments"),
        ("def handler(ctx, data): ...\ndef teardown(a, b): ...", 2, "expected teardown(ctx): missing a required"),
        ("handler = 3", 1, "'handler' must be a function handler(ctx, data), it is 3"),
        ("class A: ...\ndef handler(ctx, data: A): ...", 2, "the second argument of 'handler': no payload can be read"),
        ("def handler(ctx, data: 'Nowhere'): ...", 1, "the annotations of 'handler' cannot be read: name 'Nowhere'"),
    ],
)
def test_a_handler_that_does_not_fit_is_refused_with_file_and_line(
    load: Any, tmp_path: Path, source: str, line: int, expected: str
) -> None:
    text = refusal(load, source)

    assert text.startswith(f"{tmp_path}/handler.py:{line}: {expected}")


@pytest.mark.parametrize("source", ["custom_handlers = [1]", "default_handler = 1"])
def test_handlers_by_source_are_checked_too(load: Any, source: str) -> None:
    assert "must" in refusal(load, source)


def test_channels_that_are_no_names_are_refused(load: Any) -> None:
    assert "'channels' must map channel names to types" in refusal(load, "channels = 3\ndef handler(ctx, data): ...")


KINDS = {
    "def handler(ctx, data): ...": CallKind.PLAIN,
    "async def handler(ctx, data): ...": CallKind.ASYNC,
    "def handler(ctx, data): yield": CallKind.GENERATOR,
    "async def handler(ctx, data): yield": CallKind.ASYNC_GENERATOR,
    "class H:\n  def __call__(self, ctx, data): ...\nhandler = H()": CallKind.PLAIN,
    "class H:\n  async def __call__(self, ctx, data): ...\nhandler = H()": CallKind.ASYNC,
    "class H:\n  async def run(self, ctx, data): yield\nhandler = H().run": CallKind.ASYNC_GENERATOR,
    "import functools\nasync def f(a, ctx, data): ...\nhandler = functools.partial(f, 1)": CallKind.ASYNC,
    "import functools\n"
    "def d(f):\n  @functools.wraps(f)\n  async def g(*a): return await f(*a)\n  return g\n"
    "@d\nasync def handler(ctx, data): ...": CallKind.ASYNC,
    "handler = lambda ctx, data: None": CallKind.PLAIN,
    "def handler(*args): ...": CallKind.PLAIN,
    "def handler(ctx, data, more=None): ...": CallKind.PLAIN,
}


@pytest.mark.parametrize(("source", "kind"), KINDS.items())
def test_a_handler_may_be_any_callable(load: Any, source: str, kind: CallKind) -> None:
    loaded: LoadedHandler = load(source)

    assert loaded.default is not None
    assert loaded.default.kind is kind
    assert loaded.is_async == (kind in (CallKind.ASYNC, CallKind.ASYNC_GENERATOR))


def test_the_annotation_of_the_second_argument_chooses_the_codec(load: Any) -> None:
    loaded = load(
        """
        from __future__ import annotations
        import dataclasses

        @dataclasses.dataclass
        class Order:
            number: int

        class Handler:
            def run(self, ctx, data: Order): ...

        handler = Handler().run
        """
    )

    value = loaded.default.decode(encode_value({"number": 3}))
    assert dataclasses.asdict(value) == {"number": 3}
    with pytest.raises(DecodeError, match="number: Input should be a valid integer"):
        loaded.default.decode(encode_value({"number": "x"}))


@pytest.mark.parametrize("annotation", ["", ": typing.Any", ": object", ": any_pb2.Any", ": Message"])
def test_the_raw_any_is_the_default(load: Any, annotation: str) -> None:
    loaded = load(
        "import typing\nfrom google.protobuf import any_pb2\nfrom google.protobuf.message import Message\n"
        f"def handler(ctx, data{annotation}): ..."
    )

    assert isinstance(loaded.default.decode(encode_value(1)), any_pb2.Any)


def test_a_bare_runner_ignores_annotations(load: Any) -> None:
    loaded = load("def handler(ctx, data: int): ...", use_annotations=False)

    assert isinstance(loaded.default.decode(encode_value(wrappers_pb2.StringValue(value="x"))), any_pb2.Any)


def test_a_list_that_no_single_payload_is_can_be_a_batch(load: Any) -> None:
    source = "import numpy\ndef handler(ctx, data: list[numpy.ndarray]): ..."

    alone = refusal(load, source)
    function = for_batches(load(source, batched=True)).select("any")

    assert "no payload can be read as list[numpy.ndarray]" in alone
    assert function is not None
    assert function.decode(encode_value(numpy.array([1.5, 2.0]))).tolist() == [1.5, 2.0]


def test_handlers_are_chosen_by_their_source(load: Any) -> None:
    loaded = load(
        """
        def of_a(ctx, data): return "a"
        def default_handler(ctx, data): return "rest"
        custom_handlers = {"a": of_a}
        """
    )

    assert loaded.from_node_style
    assert loaded.select("a").function(None, None) == "a"
    assert loaded.select("b").function(None, None) == "rest"


def test_without_a_default_other_sources_have_no_handler(load: Any) -> None:
    loaded = load("def of_a(ctx, data): ...\ncustom_handlers = {'a': of_a}")

    assert loaded.select("b") is None


def test_the_handlers_by_source_win_over_the_function(load: Any) -> None:
    loaded = load("def handler(ctx, data): return 1\ndef default_handler(ctx, data): return 2")

    assert loaded.select("x").function(None, None) == 2


@pytest.mark.parametrize("form", ["runtime.py", "runtime/__init__.py"])
def test_a_module_that_would_hide_the_runtime_is_refused(load: Any, tmp_path: Path, form: str) -> None:
    write_handler(tmp_path, "", form)

    assert "hides the package 'runtime', which handlers import; rename it" in refusal(
        load, "def handler(ctx, data): ..."
    )


def test_the_handlers_folder_comes_first_and_the_current_folder_leaves_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", ["", str(Path.cwd()), "/installed"])
    write_handler(tmp_path, "import settings_of_mine\ndef handler(ctx, data): ...", "src/handler.py")
    write_handler(tmp_path, "VALUE = 1", "src/settings_of_mine.py")

    loaded = load_handler(tmp_path, "src/handler.py")

    assert sys.path == [str(tmp_path / "src"), str(tmp_path), "/installed"]
    assert loaded.module.settings_of_mine.VALUE == 1
    del sys.modules["settings_of_mine"]


def test_classes_of_the_module_can_be_pickled(load: Any) -> None:
    loaded = load("class Thing:\n  pass\n\ndef handler(ctx, data): ...")

    thing = loaded.module.Thing()

    assert type(pickle.loads(pickle.dumps(thing))) is loaded.module.Thing
    assert sys.modules["handler"] is loaded.module


@pytest.mark.parametrize("name", ["json.py", "my-handler.py"])
def test_a_name_that_is_taken_or_none_becomes_worker(load: Any, name: str) -> None:
    loaded = load("def handler(ctx, data): ...", name)

    assert loaded.module.__name__ == "worker"
    assert sys.modules["json"].__name__ == "json"


def test_a_refused_module_leaves_nothing_behind(load: Any) -> None:
    refusal(load, "def handler(): ...")

    assert load("def handler(ctx, data): ...").module is sys.modules["handler"]
