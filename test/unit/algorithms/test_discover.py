"""From adapter modules, also adversarial ones, to what they offer."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest

from runtime.algorithms.discover import Algorithm, Offer, discover
from runtime.algorithms.signatures import first_difference, schema_hash, without_texts
from runtime.errors import AdapterError


@pytest.fixture(autouse=True)
def own_imports() -> Iterator[None]:
    """Adapters change the import path, and leave modules behind."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


class Adapter:
    """Writes files beside an adapter, and discovers it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def offer(self, code: str, **beside: str) -> Offer:
        for stem, content in {"runner_adapter": code, **beside}.items():
            (self.folder / f"{stem}.py").write_text(content)
        return discover(str(self.folder))

    def algorithm(self, code: str) -> Algorithm:
        [algorithm] = self.offer(code).algorithms.values()
        return algorithm

    def faults(self, code: str, **beside: str) -> str:
        with pytest.raises(AdapterError) as raised:
            self.offer(code, **beside)
        return str(raised.value)


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    return Adapter(tmp_path)


def call(algorithm: Algorithm, body: str) -> Any:
    by_position, by_name = algorithm.signature.arguments(body.encode())
    return algorithm.function(*by_position, **by_name)


SEED = """
import classifier

def run_meme_classifier(image_url: str):
    label, score = classifier.run_on_url(image_url)
    return {'label': label, 'score': float(f'{score:.5f}')}
"""
CLASSIFIER = "def run_on_url(url): return 'doge', 0.123456789"


def test_the_adapter_of_the_seed_is_served_unchanged(adapter: Adapter) -> None:
    offer = adapter.offer(SEED, classifier=CLASSIFIER)

    assert offer.names == ("meme_classifier",)
    assert offer.schemas() == {
        "meme_classifier": {
            "title": "AlgorithmRequestModel_meme_classifier",
            "type": "object",
            "properties": {"image_url": {"title": "Image Url", "type": "string"}},
            "required": ["image_url"],
            "additionalProperties": False,
        }
    }
    [algorithm] = offer.algorithms.values()
    assert call(algorithm, '{"image_url": "http://x/y.png"}') == {"label": "doge", "score": 0.12346}


def test_the_name_is_what_follows_the_first_prefix(adapter: Adapter) -> None:
    code = "def run_re_run_all(n: int): ...\ndef run__hidden(): ...\ndef run(): ...\ndef runner(): ...\ndef run_(): ..."

    assert adapter.offer(code).names == ("_hidden", "re_run_all")


def test_an_imported_function_is_none_of_the_adapter_unless_it_is_listed(adapter: Adapter) -> None:
    tools = "def run_on_url(url: str): ...\ndef run_listed(n: int): ..."
    code = "from tools import run_on_url, run_listed\n__all__ = ['run_listed']\ndef run_own(): ..."

    assert adapter.offer(code, tools=tools).names == ("listed", "own")


def test_a_wrapped_signature_counts(adapter: Adapter) -> None:
    tools = """
import functools
def logged(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)
    return call
"""
    code = "from tools import logged\n@logged\ndef run_add(a: int, b: 'int' = 2):\n    'Add two.'\n    return a + b"

    algorithm = adapter.offer(code, tools=tools).algorithms["add"]

    assert list(algorithm.signature.request["properties"]) == ["a", "b"]
    assert algorithm.description.doc == "Add two."
    assert call(algorithm, '{"a": 1}') == 3


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("run_x = lambda n: n", "run_x is a lambda"),
        ("import functools\nrun_x = functools.partial(print)", "run_x is an object of type partial"),
        ("class run_x: ...", "run_x is an object of type type"),
        ("class Call:\n    def __call__(self): ...\nrun_x = Call()", "run_x is an object of type Call"),
        ("run_count = 3", "run_count is an object of type int"),
    ],
)
def test_what_only_looks_like_an_algorithm_is_ignored_with_a_warning(
    adapter: Adapter, caplog: pytest.LogCaptureFixture, code: str, said: str
) -> None:
    offer = adapter.offer(f"def run_own(): ...\n{code}")

    assert offer.names == ("own",)
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.getMessage().startswith(said)


def test_every_fault_is_told_at_once_with_function_and_argument(adapter: Adapter) -> None:
    code = """
from typing import Callable
def run_a(x, y: int, *args, **options): ...
def run_b(x: 'Missing') -> 'Gone': ...
def run_c():
    yield 1
async def run_d(x: Callable[[], int]):
    yield 1
def run_größe(): ...
def run_2x(): ...
def run_e() -> object(): ...
def run_f(x: complex): ...
class Odd: ...
def run_g(x: Odd): ...
def run_fine(n: int): ...
"""

    told = adapter.faults(code)

    for fault in (
        'run_a: argument "x": it has no type hint',
        'run_a: argument "*args": a call has named arguments only',
        'run_a: argument "**options": a call has named arguments only',
        "run_b: argument \"x\": the hint 'Missing' cannot be resolved: name 'Missing' is not defined",
        "run_b: the return hint: the hint 'Gone' cannot be resolved",
        "run_c: it is a generator",
        "run_d: it is a generator",
        'run_d: argument "x"',
        'run_größe: "größe" is no name of an algorithm',
        'run_2x: "2x" is no name of an algorithm',
        "run_e: the return hint",
        'run_g: argument "x": Odd has no form in JSON',
    ):
        assert fault in told, told
    assert f"{adapter.folder}/runner_adapter.py:3: run_a" in told
    assert "run_fine" not in told and "run_f:" not in told


def test_an_adapter_without_an_algorithm_is_refused(adapter: Adapter) -> None:
    told = adapter.faults("def run(): ...")

    assert told == f"{adapter.folder}/runner_adapter.py has no algorithm; define a function named run_<name> in it"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nothing_like_this", "ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("def run_x(:", "SyntaxError"),
        ("def fail():\n    raise ValueError('at import')\nfail()", "ValueError: at import"),
    ],
)
def test_an_adapter_that_does_not_import_is_refused_with_its_own_lines(adapter: Adapter, code: str, said: str) -> None:
    told = adapter.faults(code)

    assert f"adapter {adapter.folder}/runner_adapter.py cannot be imported: " in told
    assert said in told and "importlib" not in told


def test_arguments_are_converted_and_defaults_are_the_functions_own(adapter: Adapter) -> None:
    algorithm = adapter.algorithm("""
from datetime import datetime
from enum import Enum
from typing import Annotated, Literal, Optional
from dataclasses import dataclass
from pydantic import BaseModel, Field

NOTHING = object()
class Colour(Enum):
    RED = 'red'
@dataclass
class Box:
    width: int
class Mail(BaseModel):
    to: str

def run_all(
    n: int, when: datetime, colour: Colour, box: Box, mail: Mail, pick: Literal['a', 'b'],
    score: Annotated[float, Field(ge=0)],
    tags: list[str] = [], maybe: Optional[int] = None, nothing: object = NOTHING, limit: int = Field(7, ge=1),
):
    return n, when.year, colour is Colour.RED, box.width, mail.to, pick, score, tags, maybe, nothing is NOTHING, limit
""")

    result = call(
        algorithm,
        '{"n": "5", "when": "2026-01-02T03:04:05Z", "colour": "red", "box": {"width": "3"}, "mail": {"to": "x"},'
        ' "pick": "a", "score": 1}',
    )

    assert result == (5, 2026, True, 3, "x", "a", 1.0, [], None, True, 7)
    assert algorithm.signature.request["required"] == ["n", "when", "colour", "box", "mail", "pick", "score"]
    properties = algorithm.signature.request["properties"]
    assert properties["tags"]["default"] == [] and properties["limit"]["default"] == 7
    assert "default" not in properties["nothing"]


def test_every_fault_of_a_payload_is_found_under_its_real_name(adapter: Adapter) -> None:
    algorithm = adapter.algorithm("def run_x(schema: int, _y: list[int], model_z: str = 'q', self: int = 1): ...")

    with pytest.raises(pydantic.ValidationError) as raised:
        algorithm.signature.arguments(b'{"schema": "x", "_y": [1, "b"], "extra": 1, "argument_0": 2}')

    assert [fault["loc"] for fault in raised.value.errors()] == [("schema",), ("_y", 1), ("extra",), ("argument_0",)]
    assert list(algorithm.signature.request["properties"]) == ["schema", "_y", "model_z", "self"]


def test_awkward_names_and_positional_arguments_reach_the_function(adapter: Adapter) -> None:
    algorithm = adapter.algorithm(
        "def run_x(schema: int, copy: int = 2, /, _y: int = 3, *, model_z: int):\n    return schema, copy, _y, model_z"
    )

    assert call(algorithm, '{"schema": 1, "model_z": 4}') == (1, 2, 3, 4)


def test_a_default_that_is_no_json_is_left_out_of_the_schema(adapter: Adapter) -> None:
    algorithm = adapter.algorithm("def run_x(limit: float = float('nan'), n: int = None): ...")

    properties = algorithm.signature.request["properties"]
    assert "default" not in properties["limit"] and properties["n"]["default"] is None
    assert "required" not in algorithm.signature.request


def test_a_return_hint_is_the_schema_of_the_result_and_no_field(adapter: Adapter) -> None:
    algorithm = adapter.algorithm("def run_x(n: int) -> dict[str, float]: ...")

    assert list(algorithm.signature.request["properties"]) == ["n"]
    assert algorithm.signature.response == {"additionalProperties": {"type": "number"}, "type": "object"}


def test_timeout_and_concurrency_are_attributes_of_the_function(adapter: Adapter) -> None:
    code = "def run_x(): ...\nrun_x.timeout = {}\nrun_x.concurrency = {}"

    description = adapter.algorithm(code.format("'90s'", 4)).description
    assert (description.timeout_s, description.concurrency) == (90.0, 4)
    assert adapter.algorithm(code.format("2.5", 1)).description.timeout_s == 2.5
    told = adapter.faults(code.format("'90'", "True"))
    assert 'run_x: its timeout: "90" is no duration' in told and "run_x: its concurrency is True" in told
    assert "its timeout: inf is no number of seconds" in adapter.faults(code.format("float('inf')", 1))


def test_module_names_files_and_folders_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_images.py").write_text("def run_a(): ...\n__version__ = '1.2.0'")
    monkeypatch.chdir(tmp_path)

    assert discover("my_images").names == discover("my_images.py").names == ("a",)
    [algorithm] = discover(str(tmp_path / "my_images.py")).algorithms.values()
    assert algorithm.description.version == "1.2.0"
    with pytest.raises(AdapterError, match=r"does not exist; name a module, a file, or a folder that holds"):
        discover("./absent")
    with pytest.raises(AdapterError, match="adapter absent cannot be imported: ModuleNotFoundError"):
        discover("absent")


def test_two_adapters_of_one_stem_do_not_meet(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "runner_adapter.py").write_text(f"def run_{name}(): return '{name}'")

    offers = [discover(str(tmp_path / name)) for name in ("first", "second")]

    assert [offer.names for offer in offers] == [("first",), ("second",)]
    assert sys.path[0] == str(tmp_path / "second")


def test_the_hash_does_not_see_texts_but_every_change_of_type(adapter: Adapter) -> None:
    def hash_of(code: str) -> str:
        return adapter.algorithm(code).description.hash

    plain = hash_of("def run_x(title: str, n: int = 1) -> int: ...")

    described = "from typing import Annotated\nfrom pydantic import Field\n" + (
        "def run_x(title: Annotated[str, Field(description='of it', title='T')], n: int = 1) -> int:\n    'Doc.'"
    )
    assert hash_of(described) == plain
    for changed in (
        "def run_x(name: str, n: int = 1) -> int: ...",
        "def run_x(title: str, n: int = 2) -> int: ...",
        "def run_x(title: str, n: int = 1) -> str: ...",
    ):
        assert hash_of(changed) != plain


def test_texts_are_removed_and_arguments_of_such_names_stay() -> None:
    schema = {"title": "A", "properties": {"title": {"title": "T", "type": "string", "default": {"title": 1}}}}

    assert without_texts(schema) == {"properties": {"title": {"type": "string", "default": {"title": 1}}}}
    assert schema_hash(schema, None) == schema_hash({**schema, "title": "B"}, None)


def test_the_first_difference_names_the_place_and_both_sides() -> None:
    here = {"properties": {"url": {"type": "string"}}, "required": ["url"]}
    there = {"properties": {"url": {"type": "integer"}}, "required": ["url"]}
    missing = {"properties": {"uri": {"type": "string"}}, "required": ["uri"]}

    assert first_difference(here, there) == 'properties.url.type is "string" here and "integer" there'
    assert first_difference(here, missing) == 'properties.url is {"type":"string"} here and missing there'
    assert first_difference(here, dict(here)) == ""
