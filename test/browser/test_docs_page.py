"""The page at `/docs` in Chromium: it tells what the workflow takes, sends requests, loads nothing from elsewhere."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pydantic
import pytest
from playwright.async_api import Page, async_playwright, expect

from runtime.drivers.base import WorkflowSchema
from runtime.drivers.fastapi_driver import FastAPIDriver
from test.support.drivers import WORKFLOW, echo_workflow
from test.support.http import Web, serving
from test.support.runners import running

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium fonts-dejavu-core"
    ),
]
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip


ALGORITHMS = '''
def run_add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b

def run_upper(text: str) -> str:
    return text.upper()
'''


class City(pydantic.BaseModel):
    name: str
    people: int = 1


SCHEMA = WorkflowSchema(inputs=pydantic.TypeAdapter(City).json_schema(), outputs={"type": "object"})


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with echo_workflow() as bus, serving(bus=bus, view=replace(WORKFLOW, find_schema=lambda: SCHEMA)) as web:
        yield web


@asynccontextmanager
async def opened(web: Web, screenshot: Path) -> AsyncIterator[Page]:
    """Yield the page, opened. In the end its console is empty and every request went to the driver."""
    said: list[str] = []
    asked: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = await browser.new_page(viewport={"width": 1200, "height": 1100})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(f"http://127.0.0.1:{web.port}/")
        yield page
        await page.screenshot(path=screenshot, full_page=True)
        print(f"screenshot: {screenshot}")
        await browser.close()
    # Chromium reports a request that was refused, which a test may have meant.
    assert [text for text in said if "status of 400" not in text] == []
    assert [url for url in asked if not url.startswith(f"http://127.0.0.1:{web.port}/")] == []


@pytest.fixture
async def page(web: Web, tmp_path: Path) -> AsyncIterator[Page]:
    async with opened(web, tmp_path / "docs.png") as page:
        yield page


async def test_the_page_shows_the_workflow_and_sends_what_it_proposes(page: Page) -> None:
    await expect(page.get_by_role("heading", level=1)).to_have_text("echo")
    await expect(page.get_by_role("status")).to_have_text("ready")
    await expect(page.locator("#schema_inputs")).to_contain_text('"people"')

    await page.get_by_role("button", name="Predict").click()

    await expect(page.locator("#status")).to_have_text("200 OK")
    await expect(page.locator("#answer")).to_contain_text('"people": 1')


async def test_algorithms_are_listed_described_and_run(tmp_path: Path) -> None:
    make = lambda: FastAPIDriver(algorithms=True)  # noqa: E731
    async with (
        echo_workflow() as bus,
        running(bus, tmp_path, ALGORITHMS),
        serving(make, bus) as web,
        opened(web, tmp_path / "algorithms.png") as page,
    ):
        await expect(page.get_by_role("status")).to_have_text("ready")
        await expect(page.locator("#served tr")).to_have_text(["addAdd two numbers.", "upperRun upper"])

        await page.get_by_role("link", name="add").click()
        await expect(page.locator("#schema_inputs")).to_contain_text('"AlgorithmRequestModel_add"')
        await expect(page.get_by_label("State id")).to_be_hidden()
        await page.locator("#inputs").fill('{"a": 40}')
        await page.get_by_role("button", name="Run").click()
        await expect(page.locator("#answer")).to_contain_text('"result": 42')
        assert "/run/add" in (await page.locator("#curl").text_content() or "")

        await page.locator("#inputs").fill('{"a": "x", "c": 1}')
        await page.get_by_role("button", name="Run").click()
        await expect(page.locator("#status")).to_have_text("400 Bad Request")
        await expect(page.locator("#answer")).to_contain_text("Extra inputs are not permitted")

        await page.locator("#operation").select_option("the workflow")
        await page.get_by_role("button", name="Predict").click()
        await expect(page.locator("#status")).to_have_text("200 OK")


async def test_a_workflow_without_algorithms_shows_none(page: Page) -> None:
    await expect(page.get_by_role("status")).to_have_text("ready")

    await expect(page.locator("#algorithms")).to_be_hidden()
    await expect(page.locator("#operation")).to_be_hidden()


async def test_faults_are_shown_by_their_field(page: Page) -> None:
    await expect(page.get_by_role("status")).to_have_text("ready")
    await page.locator("#inputs").fill('{"people": "many"}')

    await page.get_by_role("button", name="Predict").click()

    await expect(page.locator("#status")).to_have_text("400 Bad Request")
    await expect(page.locator("#answer")).to_contain_text('"field": "name"')


async def test_outputs_are_streamed_and_tasks_followed(page: Page) -> None:
    await expect(page.get_by_role("status")).to_have_text("ready")
    await page.locator("#inputs").fill('{"name": "Ghent", "early": 5}')

    await page.get_by_role("button", name="Stream outputs").click()
    await expect(page.locator("#answer")).to_contain_text("event: end")

    await page.get_by_role("button", name="As a task").click()
    await expect(page.locator("#status")).to_have_text("200 OK")
    await expect(page.locator("#answer")).to_have_text("5")


async def test_the_curl_line_is_what_the_form_sends(page: Page) -> None:
    await expect(page.get_by_role("status")).to_have_text("ready")
    await page.locator("#inputs").fill('{"name": "it\'s"}')
    await page.get_by_label("State id").fill("cam-1")

    curl = await page.locator("#curl").text_content() or ""

    assert "-H 'Krt-State-Id: cam-1'" in curl
    assert """-d '{"name": "it'\\''s"}'""" in curl
