"""Tells memes from other pictures: white captions stand at their top and bottom. Reads binary graymaps (PGM)."""

import urllib.error
import urllib.request

import exceptions

# Seconds for the picture.
FETCH_S = 10.0
# Share of an image's height that a caption takes, and of its pixels that are white.
CAPTION_HEIGHT = 0.25
WHITE = 200
MEME_SHARE = 0.5


def run_on_url(image_url: str) -> tuple[str, float]:
    """Return `meme` or `other`, with the share of white where captions stand. Raises RequestError, ValueError."""
    width, height, pixels = _graymap(_fetch(image_url))
    rows = max(1, round(height * CAPTION_HEIGHT)) * width
    captions = pixels[:rows] + pixels[-rows:]
    score = sum(pixel >= WHITE for pixel in captions) / len(captions)
    return ("meme" if score >= MEME_SHARE else "other"), score


def _fetch(image_url: str) -> bytes:
    try:
        with urllib.request.urlopen(image_url, timeout=FETCH_S) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as error:
        raise exceptions.RequestError(error.code) from error


def _graymap(data: bytes) -> tuple[int, int, bytes]:
    kind, width, height, _, *_ = data.split(maxsplit=4)
    if kind != b"P5":
        raise ValueError("the picture is no binary graymap (P5)")
    count = int(width) * int(height)
    return int(width), int(height), data[-count:]
