"""The digits, split once and for all: every third row is held out, the model never sees it. Source: README.md."""

import csv

BRIGHTEST = 16


def read_rows(path):
    """Return `(pixels, label)` for every row: 64 pixels of 0 to 16, and the digit."""
    with open(path, newline="") as file:
        rows = csv.reader(file)
        next(rows)
        return [([int(pixel) for pixel in pixels], int(label)) for *pixels, label in rows]


def held_out_part(path):
    """Return `(pixels, label)` of the rows to test with."""
    return read_rows(path)[2::3]


def training_part(path):
    """Return the other rows as arrays: pixels between 0 and 1, and labels."""
    import numpy as np  # only the node that trains needs it

    rows = [row for number, row in enumerate(read_rows(path)) if number % 3 != 2]
    pixels, labels = zip(*rows, strict=True)
    return np.array(pixels) / BRIGHTEST, np.array(labels)
