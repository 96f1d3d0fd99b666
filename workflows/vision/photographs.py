"""The photographs in `images/`, split once and for all: every fourth of a kind is held out, the model never sees it."""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "images"


@dataclass
class Photograph:
    """A file `<label>-<number>.jpg`. label: what it shows."""

    path: Path
    label: str
    number: int

    @property
    def is_held_out(self) -> bool:
        return self.number % 4 == 0


def find() -> list[Photograph]:
    """Return all of them, in the order of their names."""
    parts = [(path, *path.stem.rsplit("-", 1)) for path in sorted(FOLDER.glob("*.jpg"))]
    return [Photograph(path, label, int(number)) for path, label, number in parts]
