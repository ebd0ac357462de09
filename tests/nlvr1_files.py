"""A part of NLVR v1 in its files: drawings are gray, what they show is told beside them."""

import json
from collections.abc import Iterable
from pathlib import Path

from PIL import Image


def thing(left: int, top: int, kind: str, colour: str, size: int) -> dict:
    return {"x_loc": left, "y_loc": top, "type": kind, "color": colour, "size": size}


SQUARES = [
    [thing(10, 60, "square", "Yellow", 30)],
    [],
    [thing(70, 0, "circle", "#0099ff", 20), thing(0, 80, "triangle", "Black", 20)],
]


def write_part(root: Path, part: str, numbers: Iterable[int]) -> Path:
    """A sentence a number, true of even ones, in six orders of ``SQUARES``; returns ``root``."""
    images = root / part / "images" / "3"
    images.mkdir(parents=True)
    lines = []
    for number in numbers:
        entry = {"sentence": f"There are {number} boxes.", "identifier": f"{number}-0"}
        label = {"label": str(number % 2 == 0).lower(), "structured_rep": SQUARES}
        lines.append(json.dumps(entry | label))
        colour = (20 * number % 256, 90, (200 - 10 * number) % 256, 255)
        for order in range(6):
            file = images / f"{part}-{number}-0-{order}.png"
            Image.new("RGBA", (400, 100), colour).save(file)
    (root / part / f"{part}.json").write_text("\n".join(lines) + "\n")
    return root
