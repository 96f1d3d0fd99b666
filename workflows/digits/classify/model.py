"""A network with one hidden layer, trained by stochastic gradient descent. NumPy and nothing else."""

import numpy as np

HIDDEN, DIGITS = 64, 10
EPOCHS, BATCH, RATE = 40, 32, 0.3


class Model:
    """Reads a digit off 64 pixels between 0 and 1."""

    def __init__(self, hidden_weights, hidden_bias, weights, bias):
        self.hidden_weights, self.hidden_bias = hidden_weights, hidden_bias
        self.weights, self.bias = weights, bias

    @classmethod
    def train(cls, pixels, labels, seed=1998):
        """Return a trained model; the same data and seed give the same one. pixels: float[n, 64], labels: int[n]."""
        random = np.random.default_rng(seed)
        model = cls(
            random.normal(0, (2 / pixels.shape[1]) ** 0.5, (pixels.shape[1], HIDDEN)),
            np.zeros(HIDDEN),
            random.normal(0, (2 / HIDDEN) ** 0.5, (HIDDEN, DIGITS)),
            np.zeros(DIGITS),
        )
        wanted = np.eye(DIGITS)[labels]
        for _ in range(EPOCHS):
            order = random.permutation(len(pixels))
            for start in range(0, len(order), BATCH):
                chosen = order[start : start + BATCH]
                model._descend(pixels[chosen], wanted[chosen])
        return model

    def read(self, pixels):
        """Return the digit and the probability that the model gives it."""
        _, probabilities = self._forward(np.asarray(pixels)[None])
        digit = int(probabilities[0].argmax())
        return digit, float(probabilities[0, digit])

    def _forward(self, pixels):
        hidden = np.maximum(pixels @ self.hidden_weights + self.hidden_bias, 0)
        scores = hidden @ self.weights + self.bias
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
        return hidden, exponentials / exponentials.sum(axis=1, keepdims=True)

    def _descend(self, pixels, wanted):
        """Take one step down the gradient of the cross entropy."""
        hidden, probabilities = self._forward(pixels)
        error = (probabilities - wanted) / len(pixels)
        hidden_error = (error @ self.weights.T) * (hidden > 0)
        self.weights -= RATE * (hidden.T @ error)
        self.bias -= RATE * error.sum(axis=0)
        self.hidden_weights -= RATE * (pixels.T @ hidden_error)
        self.hidden_bias -= RATE * hidden_error.sum(axis=0)
