"""The same without batches, for `one-by-one.yaml`: one call for every image."""

import numpy as np
from model import Model
from numpy.typing import NDArray


def init(ctx):
    ctx.set("model", Model(ctx.path("model.onnx")))


def handler(ctx, image: NDArray[np.uint8]) -> dict:
    (verdict,) = ctx.get("model").classify(image[np.newaxis])
    return verdict
