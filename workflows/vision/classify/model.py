"""The model, on the GPU where onnxruntime has one, else on the CPU."""

import numpy as np
import onnxruntime

# In the order of preference; only those that this onnxruntime has are asked for.
PROVIDERS = ["CUDAExecutionProvider", "CPUExecutionProvider"]


class Model:
    """Says what images show."""

    def __init__(self, file: str):
        options = onnxruntime.SessionOptions()
        # Threads of a model this small wait for each other longer than they work.
        options.intra_op_num_threads = 1
        available = onnxruntime.get_available_providers()
        providers = [name for name in PROVIDERS if name in available]
        self._session = onnxruntime.InferenceSession(file, options, providers=providers)
        self._labels = self._session.get_modelmeta().custom_metadata_map["labels"].split(",")

    @property
    def provider(self) -> str:
        """What the model really runs on: a provider that finds no GPU gives way to the next one."""
        return self._session.get_providers()[0]

    def classify(self, images: np.ndarray) -> list[dict]:
        """Return label and confidence of each of uint8[n, SIDE, SIDE], in one call of the model."""
        (probabilities,) = self._session.run(["probabilities"], {"pixels": images})
        best = probabilities.argmax(axis=1)
        return [
            {"label": self._labels[label], "confidence": round(float(row[label]), 4)}
            for label, row in zip(best, probabilities, strict=True)
        ]
