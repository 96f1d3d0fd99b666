"""The OpenAPI document of an HTTP driver: true for every request that schemathesis makes from it, within seconds."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from runtime.drivers.base import WorkflowSchema
from runtime.drivers.fastapi_driver import FastAPIDriver, FastAPIParameters
from test.support.drivers import WORKFLOW, echo_workflow
from test.support.http import serving
from test.support.runners import running

# Requests for each operation, from data that fits and from data that does not.
REQUESTS = 25
# Status of a request that asks for its answer within a microsecond, which fits the document.
TOO_LATE = 504


class Place(pydantic.BaseModel):
    city: str
    inside: "Place | None" = None


class Order(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    place: Place
    count: int = 1
    tags: list[str] = []


SCHEMA = WorkflowSchema(
    inputs=pydantic.TypeAdapter(Order).json_schema(), outputs=pydantic.TypeAdapter(Order).json_schema()
)


ALGORITHMS = """
import pydantic

class Place(pydantic.BaseModel):
    city: str
    inside: "Place | None" = None

def run_order(place: Place, count: int = 1, tags: list[str] = []) -> list[str]:
    return tags

def run_shout(text: str):
    return text.upper()
"""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the echo workflow with types, and algorithms, on a loop of its own, and yield its address."""
    ready, ended, address = threading.Event(), threading.Event(), []

    async def serve() -> None:
        parameters = FastAPIParameters(timeout=5)
        view = replace(WORKFLOW, find_schema=lambda: SCHEMA)
        make = lambda: FastAPIDriver(parameters=parameters, algorithms=True)  # noqa: E731
        async with (
            echo_workflow() as bus,
            running(bus, folder, ALGORITHMS),
            serving(make, bus, view=view) as web,
        ):
            address.append(f"http://127.0.0.1:{web.port}")
            ready.set()
            await asyncio.to_thread(ended.wait)

    # A thread, because what schemathesis makes are plain tests.
    server = threading.Thread(target=lambda: asyncio.run(serve()), name="served")
    server.start()
    try:
        assert ready.wait(10)
        yield address[0]
    finally:
        ended.set()
        server.join()


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_one_that_the_document_promises(mode: GenerationMode, tmp_path: Path) -> None:
    checked = []
    with served(tmp_path) as address:
        for found in schemathesis.openapi.from_url(f"{address}/openapi.json").get_all_operations():
            assert isinstance(found, Ok)
            fuzz(found.ok(), mode)
            checked.append(found.ok().label)

    assert len(checked) == 7 + 4


def fuzz(operation: Any, mode: GenerationMode) -> None:
    """Send what fits the document, or what does not; status, headers and body have to be as it says."""
    try:
        cases = operation.as_strategy(generation_mode=mode)

        @settings(
            max_examples=REQUESTS, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
        )
        @given(cases)
        def send(case: Any) -> None:
            answer = case.call(timeout=10)
            if answer.status_code != TOO_LATE:
                case.validate_response(answer)

        send()
    except Unsatisfiable:  # nothing about this operation can be wrong
        assert mode is GenerationMode.NEGATIVE
