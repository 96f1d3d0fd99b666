"""Reads the pixels of an image, of any format that Pillow knows."""

import numpy as np
import pixels
from numpy.typing import NDArray
from PIL import Image

from runtime import File
from runtime.errors import Reject


def handler(ctx, image: File) -> NDArray[np.uint8]:
    try:
        return pixels.read(image.data)
    except (OSError, Image.DecompressionBombError) as error:
        raise Reject(f"this is no image: {error}") from error  # no retry could help
