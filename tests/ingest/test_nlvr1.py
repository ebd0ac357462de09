"""NLVR v1: a made-up part in its files, and the published one where it is at hand."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from easy_vqa_files import MeanDetector
from PIL import Image, ImageDraw

from lxmert_dist.errors import ConfigError, DataError
from lxmert_dist.ingest import prepare_nlvr1
from lxmert_dist.ingest.nlvr1 import COLOURS, SHAPES, read_nlvr1, read_nlvr1_sentences
from lxmert_dist.opening import open_image
from lxmert_dist.store import open_store
from nlvr1_files import thing, write_part

ROOT = Path(__file__).parents[2]
PUBLISHED = Path(os.environ.get("NLVR1_DATA", ROOT.parent / "shared" / "data" / "nlvr1"))
NAMES = sorted(set(COLOURS.values()))
PAINT = {"black": (0, 0, 0), "yellow": (255, 255, 0), "blue": (0, 153, 255)}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Part ``dev`` of one sentence."""
    return write_part(tmp_path, "dev", [7])


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


def test_a_sentence_stays_with_its_images_and_its_split(folder, tmp_path):
    """A store of two parts, as launch/prepare.py makes it."""
    write_part(tmp_path, "hidden", range(10))
    uri = str(tmp_path / "store")
    settings = {"seed": 1, "detector": MeanDetector(), "valid_fraction": 0.2, "progress": False}
    prepare_nlvr1(uri, data_dir=folder, **settings)
    store = open_store(uri)
    assert store.answers == ["false", "true"]
    counts = {name: split.num_pairs for name, split in store.manifest.splits.items()}
    assert counts == {"train": 48, "valid": 12, "test": 6}
    train, valid = (
        {uid.rpartition("-")[0] for uid in store.split(name).sentences.uids(range(counts[name]))}
        for name in ("train", "valid")
    )
    assert not train & valid
    for name in counts:
        table, ids = store.split(name).sentences, store.split(name).image_ids
        uids = table.uids(range(counts[name]))
        assert uids == [ids[row] for row in table.image_rows]
        _, answers, _ = table.answers(range(counts[name]))
        truths = [int(uid.split("-")[1]) % 2 == 0 for uid in uids]
        assert [store.answers[a] == "true" for a in answers] == truths
    with pytest.raises(ConfigError, match="leaves a split empty"):
        prepare_nlvr1(uri, data_dir=folder, **{**settings, "valid_fraction": 0.0})


def test_a_sentence_without_a_label_is_named(folder):
    file = folder / "dev" / "dev.json"
    file.write_text(file.read_text().replace('"false"', '"perhaps"'))
    with pytest.raises(DataError, match=r"dev.json:1: not a sentence of NLVR v1 .*no label"):
        read_nlvr1_sentences(folder, "dev")
