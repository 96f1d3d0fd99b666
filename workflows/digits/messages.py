"""What travels between the nodes. `krt check` compares these types along every edge."""

from dataclasses import dataclass


@dataclass
class Scan:
    """An 8x8 image, row by row; each pixel counts 0 to 16. label: the digit as a person read it, "" if nobody did."""

    pixels: list[int]
    label: str = ""


@dataclass
class Image:
    """The same, each pixel between 0 and 1."""

    pixels: list[float]
    label: str


@dataclass
class Reading:
    """What the model sees in an image. confidence: between 0 and 1."""

    digit: str
    confidence: float
    label: str


@dataclass
class Verdict:
    """The answer. correct: None where nobody knows."""

    digit: str
    confidence: float
    correct: bool | None
