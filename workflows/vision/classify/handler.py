"""Asks the model what all images of a batch show, in one call."""

import numpy as np
from model import Model
from numpy.typing import NDArray


def init(ctx):
    model = Model(ctx.path("model.onnx"))
    ctx.set("model", model)
    ctx.logger.info("the model runs on %s", model.provider)


def handler(ctx, images: list[NDArray[np.uint8]]) -> list[dict]:
    return ctx.get("model").classify(np.stack(images))
