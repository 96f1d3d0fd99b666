"""Images as the model takes them, for the node `decode` and for `train.py`."""

import io

import numpy as np
from PIL import Image

# Pixels of an edge.
SIDE = 96


def read(image: bytes) -> np.ndarray:
    """Return the levels of gray, 0 to 255, of an image of any format and size, as uint8[SIDE, SIDE].

    Raises OSError for bytes that are no whole image, Image.DecompressionBombError for one of far too many pixels.
    """
    with Image.open(io.BytesIO(image)) as opened:
        gray = opened.convert("L").resize((SIDE, SIDE))
    return np.asarray(gray)
