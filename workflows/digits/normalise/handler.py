"""Checks a scan and brings its pixels into the range of the model."""

from messages import Image, Scan

from runtime.errors import Reject

PIXELS = 64
BRIGHTEST = 16


def handler(ctx, scan: Scan) -> Image:
    if len(scan.pixels) != PIXELS or not all(0 <= pixel <= BRIGHTEST for pixel in scan.pixels):
        raise Reject(f"a scan has {PIXELS} pixels of 0 to {BRIGHTEST}")  # no retry could help
    return Image(pixels=[pixel / BRIGHTEST for pixel in scan.pixels], label=scan.label)
