"""Makes the pictures in `frames/`: a light of 3x3 pixels that crosses a dark field of 16x16."""

import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER / "locate"))

from png import write_gray  # noqa: E402 - found only now

SIZE = 16
# Where the light is: its left upper corner in each picture.
CORNERS = [(0, 0), (2, 1), (4, 3), (7, 5), (10, 8), (13, 12)]


def frame(corner: tuple[int, int]) -> bytes:
    rows = [bytearray(b"\x10" * SIZE) for _ in range(SIZE)]
    for y in range(corner[1], corner[1] + 3):
        rows[y][corner[0] : corner[0] + 3] = b"\xf0" * 3
    return write_gray([bytes(row) for row in rows])


for number, corner in enumerate(CORNERS, 1):
    (FOLDER / "frames" / f"frame-{number:03}.png").write_bytes(frame(corner))
