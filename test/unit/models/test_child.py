"""What the model's process does with requests, without the process."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.models import wire
from runtime.models.child import START, ModelChild, environment, request
from runtime.models.values import Argument, KwArgument, Variant, VariantType, arguments_of, from_variant, to_variant
from runtime.proto.models import CallRequest, CallResponse, ResetResponse, SetupRequest, SetupResponse

MODEL = """
import asyncio

class Base: ...

class Loud(Exception):
    def __str__(self): raise ValueError

class Panic(BaseException): ...
"""
OWN = """
import collections
import asyncio
from aviary import Base, Loud, Panic

class Model(Base):
    fixed = 3

    def __init__(self, *args, seed=0):
        self.args, self.seed, self.lock = args, seed, None
        if seed == 13: raise RuntimeError("unlucky")

    def positional(self, a, b, /, c): return [a, b, c]
    def named(self, a, *, b=0): return [a, b]
    def everything(self, **kwargs): return kwargs
    def built_in(self, *args): return max(*args)
    def nothing(self): pass
    def args_and_seed(self): return [list(self.args), self.seed]
    def loud(self): raise Loud()
    def panic(self): raise Panic("at once")
    def surrogate(self): raise ValueError("\\ud800")
    def long(self): raise ValueError("x" * 100_000)
    def cyclic(self): a = []; a.append(a); return a

    async def locked(self):
        self.lock = self.lock or asyncio.Lock()
        async with self.lock:
            await asyncio.sleep(0)
        return "locked"

    async def fails(self): raise asyncio.CancelledError()
    def _private(self): return 1
"""


class Model:
    """A child, asked as its parent does."""

    def __init__(self, code: Path) -> None:
        self.child = ModelChild()
        told = f'{{"code": "{code}", "class_name": ""}}'
        self.child.answer(request(START, told.encode()))

    def set_up(self, *args: Any, **kwargs: Any) -> str:
        positional, keywords = arguments_of(args, kwargs)
        body = SetupRequest(className="aviary.Base", instanceArguments=positional, instanceKwArguments=keywords)
        return str(self._status(SetupResponse, wire.SETUP, body.SerializeToString()).code)

    def reset(self) -> str:
        return str(self._status(ResetResponse, wire.RESET, b"").code)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.send(method, *arguments_of(args, kwargs))

    def send(self, method: str, args: list[Any], kwargs: list[Any]) -> Any:
        """Return what a method returns, or the status of a failure as one text."""
        body = CallRequest(methodName=method, methodArguments=args, methodKwArguments=kwargs).SerializeToString()
        response = CallResponse.FromString(self.child.answer(request(wire.CALL, body)))
        if response.status.code != wire.StatusCode.SUCCESS:
            return f"{response.status.code} {response.status.message}"
        return from_variant(response.methodResponse)

    def _status(self, response: Any, action: str, body: bytes) -> Any:
        return response.FromString(self.child.answer(request(action, body))).status


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    lib, code = tmp_path / "lib", tmp_path / "code"
    lib.mkdir()
    code.mkdir()
    (lib / "aviary.py").write_text(MODEL)
    (code / "own_model.py").write_text(OWN)
    monkeypatch.syspath_prepend(lib)
    before = set(sys.modules)
    model = Model(code)
    yield model
    model.child.close()
    sys.path.remove(str(code))
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def made(model: Model) -> Model:
    assert model.set_up() == "SUCCESS"
    return model


def test_constructor_arguments_are_given_and_unknown_keywords_dropped(model: Model) -> None:
    assert model.set_up(1, "two", seed=7, unknown=1) == "SUCCESS"

    assert model.call("args_and_seed") == [[1, "two"], 7]


def test_a_reset_gives_the_same_arguments_again(model: Model) -> None:
    model.set_up([1], seed=7)

    assert model.reset() == "SUCCESS"
    assert model.call("args_and_seed") == [[[1]], 7]


def test_without_an_instance_nothing_is_called(model: Model) -> None:
    assert model.call("nothing").startswith("FAILED_PRECONDITION ")
    assert model.reset() == "FAILED_PRECONDITION"
    assert model.set_up(seed=13) == "SETUP_FAILED"
    assert model.call("nothing").startswith("FAILED_PRECONDITION ")
    assert model.set_up() == "SUCCESS"
    assert model.call("nothing") is None


@pytest.mark.parametrize("first", [0, 1])
def test_positions_count_from_0_or_1_in_any_order(made: Model, first: int) -> None:
    args = [Argument(position=first + position, data=to_variant(position)) for position in (2, 0, 1)]

    assert made.send("positional", args, []) == [0, 1, 2]


@pytest.mark.parametrize("positions", [(2, 3), (1, 1), (0, 2), (1, 3)])
def test_positions_with_a_gap_are_refused(made: Model, positions: tuple[int, int]) -> None:
    args = [Argument(position=position, data=to_variant(0)) for position in positions]

    assert made.send("positional", args, []).startswith("INVALID_ARGUMENT ")


def test_a_value_that_cannot_be_read_is_refused(made: Model) -> None:
    wrong = Variant(type=VariantType.DOUBLE, value=b"123")

    assert made.send("named", [Argument(position=1, data=wrong)], []).startswith("INVALID_ARGUMENT ")
    assert made.send("named", [], [KwArgument(keyword="a", data=wrong)]).startswith("INVALID_ARGUMENT ")


def test_a_request_that_cannot_be_read_is_refused(model: Model) -> None:
    answer = SetupResponse.FromString(model.child.answer(request(wire.SETUP, b"\xff\xff")))

    assert answer.status.code == "INVALID_ARGUMENT"


def test_keywords_reach_only_what_takes_them(made: Model, caplog: pytest.LogCaptureFixture) -> None:
    assert made.call("named", 1, b=2, c=3) == [1, 2]
    assert made.call("named", 1, c=3) == [1, 0]
    assert made.call("positional", 1, 2, c=3) == [1, 2, 3]
    assert made.call("everything", a=1, b=2) == {"a": 1, "b": 2}

    assert [record.getMessage() for record in caplog.records if "keyword" in record.getMessage()] == [
        "named() takes no keyword c, which is dropped"
    ]


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("_private", "INVALID_ARGUMENT "),
        ("__init__", "INVALID_ARGUMENT "),
        ("", "INVALID_ARGUMENT "),
        ("a b", "INVALID_ARGUMENT "),
        ("fixed", "BAD_IMPLEMENTATION own_model.Model has no method fixed()"),
        ("missing", "BAD_IMPLEMENTATION own_model.Model has no method missing()"),
        ("loud", "MODEL_FAILED Loud"),
        ("panic", "MODEL_FAILED Panic: at once"),
        ("surrogate", "MODEL_FAILED ValueError: ?"),
        ("long", "MODEL_FAILED ValueError: xxx"),
        ("cyclic", "MODEL_FAILED the result of cyclic() cannot be sent"),
        ("fails", "MODEL_FAILED CancelledError"),
        ("positional", "MODEL_FAILED TypeError"),
    ],
)
def test_a_failure_is_an_answer(made: Model, method: str, answer: str) -> None:
    text = made.call(method)

    assert text.startswith(answer)
    assert len(text) < 5000
    assert made.call("nothing") is None


def test_coroutine_methods_share_one_loop(made: Model) -> None:
    assert [made.call("locked") for _ in range(3)] == ["locked"] * 3


def test_a_model_is_told_its_folders() -> None:
    assert environment(Path("/code"), None) == {"CODE_DIRECTORY": "/code"}
    assert environment(Path("/code"), Path("/data")) == {"CODE_DIRECTORY": "/code", "RESOURCE_DIRECTORY": "/data"}
