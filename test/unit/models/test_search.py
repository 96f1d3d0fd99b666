"""The class of a model, found among whatever lies in its code folder."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.models.search import RefusedError, find_class, full_name, import_base
from runtime.models.wire import StatusCode

IMPORT = "from nest.tracker import Tracker\n"
BIRD = IMPORT + "class Bird(Tracker):\n    def tick(self): ...\n"

Find = Callable[..., type[Any]]


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A code folder, beside which the base class `nest.tracker.Tracker` lies; its modules are forgotten afterwards."""
    nest = tmp_path / "lib" / "nest"
    nest.mkdir(parents=True)
    (nest / "tracker.py").write_text(
        "import abc\nclass Tracker(abc.ABC):\n    @abc.abstractmethod\n    def tick(self): ...\n"
        "class Benchmark(Tracker):\n    def tick(self): ...\n"
    )
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(nest.parent)
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def find(code: Path) -> Find:
    """Write files and find the class among them."""

    def find(files: dict[str, str], class_name: str = "") -> type[Any]:
        for name, text in files.items():
            (code / name).parent.mkdir(parents=True, exist_ok=True)
            (code / name).write_text(text)
        return find_class(import_base("nest.tracker.Tracker"), code, class_name)

    return find


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"main.py": BIRD}, "main.Bird"),
        ({"a/b/c.py": BIRD}, "a.b.c.Bird"),
        ({"package/__init__.py": BIRD}, "package.Bird"),
        ({"my-model.v1/main.py": BIRD}, "krt_model_my-model.v1.main.Bird"),
        # A name that Python has itself.
        ({"json.py": BIRD}, "krt_model_json.Bird"),
        # The first in the order of paths; what others import is found once, and where it is defined.
        ({"a.py": IMPORT + "x = 1", "b.py": BIRD, "c.py": BIRD.replace("Bird", "Wren")}, "b.Bird"),
        ({"a.py": "from b import Bird", "b.py": BIRD}, "b.Bird"),
        # Neither what another one derives from, nor what is abstract, nor the base's own.
        ({"a.py": BIRD + "class Wren(Bird): ...\n"}, "a.Wren"),
        ({"a.py": IMPORT + "class Half(Tracker): ...\n", "b.py": BIRD}, "b.Bird"),
        ({"a.py": "from nest.tracker import Benchmark", "b.py": BIRD}, "b.Bird"),
        # Not there for this.
        ({".hidden/a.py": BIRD, "__pycache__/a.py": BIRD, "z.py": BIRD}, "z.Bird"),
        ({"env/pyvenv.cfg": "", "env/lib/a.py": BIRD, "z.py": BIRD}, "z.Bird"),
        ({"__main__.py": "raise SystemExit", "z.py": BIRD}, "z.Bird"),
        # Modules that cannot be imported keep none from being found.
        ({"a.py": "import nothing_like_this", "b.py": "raise SystemExit(1)", "c.py": "x =", "d.py": BIRD}, "d.Bird"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_the_first_own_concrete_class_is_found(find: Find, files: dict[str, str], found: str) -> None:
    assert full_name(find(files)) == found


def test_a_class_that_is_named_decides(find: Find, caplog: pytest.LogCaptureFixture) -> None:
    files = {"a.py": BIRD, "b.py": BIRD.replace("Bird", "Wren")}

    assert full_name(find(files, "b:Wren")) == "b.Wren"
    assert full_name(find(files)) == "a.Bird"
    assert "a.Bird is taken; passed over: b.Wren" in caplog.text


@pytest.mark.parametrize(
    ("class_name", "text"),
    [
        ("a:Nobody", "a:Nobody cannot be imported: AttributeError"),
        ("b:Bird", "b:Bird cannot be imported: ModuleNotFoundError"),
        ("a:Half", "a:Half is abstract; it lacks tick"),
        ("a:x", "a:x is no subclass of nest.tracker.Tracker"),
    ],
)
def test_a_named_class_that_is_none_is_refused(find: Find, class_name: str, text: str) -> None:
    with pytest.raises(RefusedError, match=text) as refused:
        find({"a.py": IMPORT + "x = 1\nclass Half(Tracker): ...\n"}, class_name)

    assert refused.value.code is StatusCode.BAD_IMPLEMENTATION


def test_where_no_class_is_found_import_errors_are_named(find: Find) -> None:
    files = {f"broken_{number}.py": f"raise ValueError({number})" for number in range(7)}

    with pytest.raises(RefusedError) as refused:
        find({**files, "fine.py": "x = 1"})

    assert refused.value.code is StatusCode.BAD_IMPLEMENTATION
    assert "no concrete subclass of nest.tracker.Tracker is defined in the code folder code" in str(refused.value)
    assert "broken_0.py: ValueError: 0; " in str(refused.value)
    assert str(refused.value).endswith("; and 2 more")


def test_a_class_of_a_linked_file_outside_does_not_count(find: Find, code: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text(BIRD)
    (code / "linked.py").symlink_to(tmp_path / "outside.py")

    with pytest.raises(RefusedError, match="no concrete subclass"):
        find({})


@pytest.mark.parametrize("name", ["", "Tracker", "nest:Tracker", "nest..Tracker", ".Tracker", "a b.C", "nest.1.C"])
def test_a_base_class_needs_dots(name: str) -> None:
    with pytest.raises(RefusedError, match=r"write package\.module\.Class") as refused:
        import_base(name)

    assert refused.value.code is StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nest.nowhere.Tracker", "cannot be imported: ModuleNotFoundError"),
        ("nest.tracker.Nobody", "cannot be imported: AttributeError"),
        ("nest.tracker.abc", "is no class, but module"),
    ],
)
def test_a_base_class_that_is_none_is_refused(code: Path, name: str, text: str) -> None:
    with pytest.raises(RefusedError, match=text) as refused:
        import_base(name)

    assert refused.value.code is StatusCode.BAD_IMPLEMENTATION
