"""Small files in the formats in which LXMERT's pretraining data were published."""

import base64
import csv
import json
from pathlib import Path

import numpy as np

from lxmert_dist.ingest import RowSizes
from tiny_store import WORDS

SIZES = RowSizes(num_objects=3, feature_dim=8)
ANSWERS = ["1", "no", "red", "yes"]
HEIGHT, WIDTH = 48, 64


def make_fields(image_id: str, sizes: RowSizes = SIZES, seed: int = 0, **changes) -> dict:
    """One row, arrays not yet encoded; ``changes`` replace fields."""
    rng = np.random.default_rng([seed, *image_id.encode()])
    objects = sizes.num_objects
    corners = np.sort(rng.random((objects, 2, 2)), axis=1).reshape(objects, 4)
    return {
        "img_id": image_id,
        "img_h": HEIGHT,
        "img_w": WIDTH,
        "objects_id": rng.integers(0, 1600, objects),
        "objects_conf": rng.random(objects).astype(np.float32),
        "attrs_id": rng.integers(0, 400, objects),
        "attrs_conf": rng.random(objects).astype(np.float32),
        "num_boxes": objects,
        "boxes": (corners * [WIDTH, HEIGHT, WIDTH, HEIGHT]).astype(np.float32),
        "features": rng.standard_normal((objects, sizes.feature_dim)).astype(np.float32),
    } | changes


def write_tsv(path: Path, rows: list[dict], line_end: str = "\r\n") -> Path:
    """As the tool that made the published files does it: Python's csv, which ends lines in CRLF."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator=line_end)
        for row in rows:
            writer.writerow(
                {
                    name: base64.b64encode(value).decode()
                    if isinstance(value, np.ndarray)
                    else value
                    for name, value in row.items()
                }
            )
    return path


def damage_line(path: Path, line: int, old: bytes, new: bytes) -> None:
    """Replace the first ``old`` of a line (from 1)."""
    lines = path.read_bytes().splitlines(keepends=True)
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    path.write_bytes(b"".join(lines))


def make_item(image_id: str, *, questions: bool = True) -> dict:
    """Two captions, and two questions of which one has an answer outside the table."""
    a, b, c, *_ = np.random.default_rng(list(image_id.encode())).permutation(WORDS).tolist()
    item = {"img_id": image_id, "sentf": {"mscoco": [f"{a} {b}", f"{b} {c} {a}"]}, "labelf": {}}
    if questions:
        item["sentf"]["vqa"] = [f"{c} {a}?", f"{a}?"]
        item["labelf"]["vqa"] = [{"A Yes.": 1, "maybe so": 0.3}, {"perhaps": 0.6}]
    return item


def write_json(path: Path, items: list) -> Path:
    path.write_text(json.dumps(items))
    return path
