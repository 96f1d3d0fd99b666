"""The adapter of the article that the convention comes from, word for word, beside the classifier of our example."""

import json
import shutil
from pathlib import Path

import pytest

from test.support.algorithms import Bench

IMAGES = Path(__file__).parents[3] / "workflows" / "algorithms" / "images"
ADAPTER = """\
import classifier

def run_meme_classifier(image_url: str):
    # logger.info('Running classifier on URL'.format(image_url))
    label, score = classifier.run_on_url(image_url)
    return {'label': label, 'score': float(f'{score:.5f}')}
"""


def picture() -> str:
    """Return the URL of the picture that the example's producer sends."""
    jobs = [json.loads(line) for line in (IMAGES.parent / "jobs.jsonl").read_text().splitlines()]
    [url] = [job["payload"]["image_url"] for job in jobs if job["algorithm"] == "meme_classifier"]
    return str(url)


@pytest.fixture
def images(bench: Bench) -> str:
    for module in ("classifier.py", "exceptions.py"):
        (bench.folder / "images").mkdir(exist_ok=True)
        shutil.copy(IMAGES / module, bench.folder / "images" / module)
    return ADAPTER


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_the_adapter_of_the_article_runs_unchanged(bench: Bench, images: str, isolation: str) -> None:
    await bench.start(images, ALGORITHMS_ISOLATION=isolation)

    result = await bench.client.run("meme_classifier", {"image_url": picture()})
    missing = await bench.fails(bench.client.run("meme_classifier", {}))
    broken = await bench.fails(bench.client.run("meme_classifier", {"image_url": "data:,no picture"}))

    assert result == {"label": "meme", "score": 1.0}
    assert (missing.outcome, missing.detail) == ("invalid", "image_url: Field required")
    assert broken.outcome == "failed" and "ValueError" in broken.traceback
