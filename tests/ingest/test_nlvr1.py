"""NLVR v1: a made-up part in its files, and the published one where it is at hand."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lxmert_dist.errors import DataError
from lxmert_dist.ingest.nlvr1 import COLOURS, SHAPES, read_nlvr1
from lxmert_dist.opening import open_image

ROOT = Path(__file__).parents[2]
PUBLISHED = Path(os.environ.get("NLVR1_DATA", ROOT.parent / "shared" / "data" / "nlvr1"))
NAMES = sorted(set(COLOURS.values()))
PAINT = {"black": (0, 0, 0), "yellow": (255, 255, 0), "blue": (0, 153, 255)}


def thing(left, top, kind, colour, size):
    return {"x_loc": left, "y_loc": top, "type": kind, "color": colour, "size": size}


SQUARES = [
    [thing(10, 60, "square", "Yellow", 30)],
    [],
    [thing(70, 0, "circle", "#0099ff", 20), thing(0, 80, "triangle", "Black", 20)],
]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Part ``dev`` of one sentence."""
    images = tmp_path / "dev" / "images" / "3"
    images.mkdir(parents=True)
    entry = {"sentence": "There is a box.", "identifier": "7-0", "structured_rep": SQUARES}
    (tmp_path / "dev" / "dev.json").write_text(json.dumps(entry) + "\n")
    for order in range(6):
        Image.new("RGBA", (400, 100), (211, 211, 211, 255)).save(images / f"dev-7-0-{order}.png")
    return tmp_path


def read(folder: Path, part: str = "dev"):
    return read_nlvr1(folder, part, SHAPES, NAMES)


def test_six_orders_of_three_squares_as_the_files_number_them(folder):
    images = read(folder)
    assert [image.image_id for image in images] == [f"dev-7-0-{order}" for order in range(6)]
    left = [sorted(image.boxes[:, 0].tolist()) for image in images]
    assert left == [
        [10, 300, 370], [10, 150, 220], [160, 300, 370], [150, 220, 310], [0, 70, 160], [0, 70, 310]
    ]  # fmt: skip
    first = images[0]
    assert first.boxes.tolist()[0] == [10, 60, 40, 90]
    assert [SHAPES[i] for i in first.object_ids] == ["square", "circle", "triangle"]
    assert [NAMES[i] for i in first.attribute_ids] == ["yellow", "blue", "black"]


def test_without_names_of_colours_there_are_no_attributes(folder):
    assert (read_nlvr1(folder, "dev", SHAPES, ())[0].attribute_ids == -1).all()


def test_an_archive_says_the_same_as_its_folder(folder):
    with zipfile.ZipFile(folder / "dev.zip", "w") as archive:
        for file in sorted((folder / "dev").rglob("*")):
            archive.write(file, file.relative_to(folder))
    unpacked = read(folder)
    (folder / "dev" / "dev.json").unlink()
    for a, b in zip(read(folder), unpacked, strict=True):
        assert a.source == b.source
        np.testing.assert_array_equal(a.boxes, b.boxes)


def test_what_is_missing_or_damaged_is_named(folder):
    with pytest.raises(DataError, match=r"neither .*test.zip nor .*check --data"):
        read(folder, "test")
    (folder / "dev" / "images" / "3" / "dev-7-0-4.png").unlink()
    with pytest.raises(DataError, match=r"no image dev-7-0-4.png"):
        read(folder)
    (folder / "test.zip").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(DataError, match=r"test.zip: truncated or damaged"):
        read(folder, "test")
    file = folder / "dev" / "dev.json"
    star = {"identifier": "7-0", "structured_rep": [[thing(1, 1, "star", "Black", 9)], [], []]}
    two = {"identifier": "7-0", "structured_rep": [[], []]}
    for line in ("{", "[]", '{"identifier": 1}', json.dumps(two), json.dumps(star)):
        file.write_text(line + "\n")
        with pytest.raises(DataError, match=r"dev.json:1: not a sentence of NLVR v1"):
            read(folder)
    file.unlink()
    with pytest.raises(DataError, match=r"dev.json: missing"):
        read(folder)


def test_boxes_lie_where_the_published_images_have_their_colours():
    if not (PUBLISHED / "dev.zip").is_file():
        pytest.skip("NLVR v1 is not at hand; NLVR1_DATA names the folder with dev.zip")
    images = read(PUBLISHED)
    assert len(images) == 5934
    for image in images[::97]:
        pixels = open_image(image.source, image.image_id).astype(int)
        drawn = Image.new("L", (400, 100))
        for box, colour in zip(image.boxes.astype(int).tolist(), image.attribute_ids, strict=True):
            inside = pixels[box[1] : box[3], box[0] : box[2]]
            right = np.abs(inside - PAINT[NAMES[colour]]).max(axis=2) < 30
            # Worst: a triangle of 10 pixels, half of its box less the mixed pixels of its edge.
            assert right.mean() >= 0.4, image.image_id
            assert right.any(axis=0).mean() >= 0.8
            ImageDraw.Draw(drawn).rectangle([box[0], box[1], box[2], box[3]], 255)
        outside = pixels[np.array(drawn) == 0]
        assert not np.ptp(outside, axis=1).any(), image.image_id  # gray alone
