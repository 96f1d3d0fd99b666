"""Trains the model on the photographs in `images/` and writes `model.onnx`: python workflows/vision/train.py

Filters answer to what is typical of small squares of the photographs; how strongly they answer, on average over an
image, tells its texture. The filters are the principal components of the squares, and the weights behind them a
logistic regression: it has one best solution, so every machine finds the same model.
"""

import sys
from pathlib import Path

import numpy as np
import photographs
import pixels
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper, save

HERE = Path(__file__).parent
# Squares: pixels of an edge, and pixels from one to the next.
EDGE, STRIDE = 7, 2
FILTERS = 16
# Level of the brightest pixels.
WHITE = 255
# Of the logistic regression: steps down the gradient, their length, and how much large weights cost.
STEPS, RATE, DECAY = 2000, 1.0, 1e-3
# Versions of the format; every onnxruntime since 1.15 reads them.
IR_VERSION, OPSET = 8, 17


def main(file: Path = HERE / "model.onnx") -> float:
    """Train, write the file, and print and return the accuracy on the photographs that were held out."""
    found = photographs.find()
    labels = sorted({each.label for each in found})
    images = np.stack([pixels.read(each.path.read_bytes()) for each in found]) / WHITE
    wanted = np.array([labels.index(each.label) for each in found])
    held_out = np.array([each.is_held_out for each in found])

    filters = find_filters(images[~held_out])
    strengths = measure(images, filters)
    weights, bias = fit(strengths[~held_out], np.eye(len(labels))[wanted[~held_out]])
    save(build(filters, weights, bias, labels), file)

    right = (strengths @ weights + bias).argmax(axis=1) == wanted
    accuracy = float(right[held_out].mean())
    print(f"trained on {(~held_out).sum()} photographs; right on {accuracy:.0%} of the {held_out.sum()} held out")
    return accuracy


def find_filters(images: np.ndarray) -> np.ndarray:
    """Return the filters that tell most about the squares of float[n, SIDE, SIDE], as float[EDGE * EDGE, FILTERS].

    No filter answers to light alone, and all answer equally strongly on average.
    """
    squares = squares_of(images).reshape(-1, EDGE * EDGE)
    squares = squares - squares.mean(axis=1, keepdims=True)
    variances, components = np.linalg.eigh(squares.T @ squares / len(squares))
    strongest = slice(-1, -1 - FILTERS, -1)
    filters = components[:, strongest] / np.sqrt(variances[strongest])
    return filters - filters.mean(axis=0)


def measure(images: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Return how strongly each filter answers to each image, on average: float[n, FILTERS]. The model does the same."""
    return np.abs(squares_of(images) @ filters).mean(axis=(1, 2))


def squares_of(images: np.ndarray) -> np.ndarray:
    """Return the squares of each image: float[n, rows, columns, EDGE * EDGE]."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (EDGE, EDGE), axis=(1, 2))[:, ::STRIDE, ::STRIDE]
    return windows.reshape(*windows.shape[:3], EDGE * EDGE)


def fit(strengths: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and bias of the logistic regression. wanted: float[n, labels], 1 for the label, else 0."""
    weights, bias = np.zeros((strengths.shape[1], wanted.shape[1])), np.zeros(wanted.shape[1])
    for _ in range(STEPS):
        exponentials = np.exp(strengths @ weights + bias)
        error = (exponentials / exponentials.sum(axis=1, keepdims=True) - wanted) / len(wanted)
        weights -= RATE * (strengths.T @ error + DECAY * weights)
        bias -= RATE * error.sum(axis=0)
    return weights, bias


def build(filters: np.ndarray, weights: np.ndarray, bias: np.ndarray, labels: list[str]) -> ModelProto:
    """Return the model: pixels uint8[n, SIDE, SIDE] in, probabilities float32[n, labels] out; it knows its labels."""
    constants = {
        "filters": (filters.T.reshape(FILTERS, 1, EDGE, EDGE) / WHITE).astype(np.float32),
        "weights": weights.astype(np.float32),
        "bias": bias.astype(np.float32),
        "channel": np.array([1]),
    }
    steps = [
        helper.make_node("Cast", ["pixels"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["levels", "channel"], ["images"]),
        helper.make_node("Conv", ["images", "filters"], ["answers"], strides=[STRIDE, STRIDE]),
        helper.make_node("Abs", ["answers"], ["sizes"]),
        helper.make_node("GlobalAveragePool", ["sizes"], ["means"]),
        helper.make_node("Flatten", ["means"], ["strengths"]),
        helper.make_node("Gemm", ["strengths", "weights", "bias"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        steps,
        "vision",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", pixels.SIDE, pixels.SIDE])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(labels)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])
    helper.set_model_props(model, {"labels": ",".join(labels)})
    checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    sys.exit(main() < 0.9)
