"""Asks the model what the images show, on the GPU where there is one."""

import numpy as np
import onnxruntime
import pixels

# In the order of preference; only those that this onnxruntime has are asked for.
PROVIDERS = ["CUDAExecutionProvider", "CPUExecutionProvider"]


def init(ctx):
    session = open_model(ctx.path("model.onnx"))
    ctx.set("model", session)
    ctx.set("labels", session.get_modelmeta().custom_metadata_map["labels"].split(","))
    ctx.logger.info("the model runs on %s", session.get_providers()[0])


def handler(ctx, image: bytes) -> dict:
    images = np.frombuffer(image, dtype=np.float32).reshape(1, pixels.SIDE, pixels.SIDE)
    (probabilities,) = ctx.get("model").run(["probabilities"], {"pixels": images})
    return verdict(ctx.get("labels"), probabilities[0])


def open_model(file: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # Threads of a model this small wait for each other longer than they work.
    options.intra_op_num_threads = 1
    available = onnxruntime.get_available_providers()
    return onnxruntime.InferenceSession(file, options, providers=[name for name in PROVIDERS if name in available])


def verdict(labels: list[str], probabilities: np.ndarray) -> dict:
    best = int(probabilities.argmax())
    return {"label": labels[best], "confidence": round(float(probabilities[best]), 4)}
