"""Trains a small network when the node starts, and reads a digit off every image."""

import dataset
from messages import Image, Reading
from model import Model


def init(ctx):
    pixels, labels = dataset.training_part(ctx.path("data/digits.csv"))
    ctx.set("model", Model.train(pixels, labels))
    ctx.logger.info("trained on %d images", len(labels))


def handler(ctx, image: Image) -> Reading:
    digit, confidence = ctx.get("model").read(image.pixels)
    return Reading(digit=str(digit), confidence=round(confidence, 4), label=image.label)
