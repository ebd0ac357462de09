"""The command, as a user types it, and what it rests on."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lxmert_dist.cli import audit
from lxmert_dist.errors import DataError
from lxmert_dist.ingest.image_ids import image_key
from lxmert_dist.ingest.perceptual import pairs_within, perceptual_hash
from lxmert_dist.ingest.task_images import read_task_images
from lxmert_dist.schema import Sentence
from lxmert_dist.store import StoreWriter
from tiny_store import ATTRIBUTE_CLASSES, OBJECT_CLASSES, make_record, make_tokenizer

VG_IN_COCO = {2354786: 57870}


@pytest.mark.parametrize(
    ("name", "number_of", "expected"),
    [
        ("COCO_val2014_000000000042", "vg", ("coco", 42)),
        ("COCO_test2015_000000000042.jpg", "vg", ("coco", 42)),
        ("val2017/000000000042.JPG", "vg", ("coco", 42)),
        ("000000000042", "vg", ("coco", 42)),
        ("42", "coco", ("coco", 42)),
        ("42", "vg", ("vg", 42)),
        ("VG_100K_2/42.jpg", "vg", ("vg", 42)),
        ("2354786", "vg", ("coco", 57870)),
        ("2354786", "coco", ("coco", 2354786)),
        ("n161313", "vg", ("name", "n161313")),
        ("dev-850-0-img0.png", "vg", ("name", "dev-850-0-img0")),
        ("a.b/c.d", "vg", ("name", "c.d")),
        ("COCO_val2014_x", "vg", ("name", "COCO_val2014_x")),
    ],
)
def test_names_have_one_form(name, number_of, expected):
    assert image_key(name, VG_IN_COCO, number_of) == expected


COCO_42, COCO_7, VG_8 = ("coco", 42), ("coco", 7), ("vg", 8)
NLVR2 = {"sentence": "a", "left_url": "u", "label": "True", "identifier": "dev-850-0-1"}
PAIR = {("name", "dev-850-0-img0"), ("name", "dev-850-0-img1")}
FORMS = {
    "vqa questions": ({"data_subtype": "val2014", "questions": [{"image_id": 42}]}, {COCO_42}),
    "vqa annotations": ({"annotations": [{"image_id": 42, "answers": []}] * 2}, {COCO_42}),
    "coco": (
        {
            "images": [{"file_name": "COCO_val2014_000000000042.jpg", "id": 42}],
            "annotations": [{"image_id": 7, "id": 1, "caption": "a"}],
        },
        {COCO_42, COCO_7},
    ),
    "gqa": ({"a": {"imageId": "8", "question": "b?"}, "b": {"imageId": "8"}}, {VG_8}),
    "lxmert pretraining": ([{"img_id": "COCO_val2014_000000000042", "sentf": {}}], {COCO_42}),
    "lxmert gqa": ([{"img_id": "8", "question_id": "1", "sent": "b?"}], {VG_8}),
    "lxmert nlvr2": (
        [{"img0": "dev-850-0-img0", "img1": "dev-850-0-img1", "identifier": "dev-850-0-1"}],
        PAIR,
    ),
    "list of names": (["COCO_val2014_000000000042.jpg", 8], {COCO_42, VG_8}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("style", [{}, {"indent": 2}])
def test_every_published_form_is_recognised(tmp_path, form, style):
    content, expected = FORMS[form]
    path = tmp_path / "task.json"
    path.write_text(json.dumps(content, **style))
    seen = []
    assert read_task_images(path, {}, seen.append).keys() == expected
    assert sum(seen) == path.stat().st_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("".join(f"{json.dumps(NLVR2)}\n" for _ in range(2)), PAIR),
        ('{"image_id": "8", "sentence": "a"}\n', {VG_8}),
        ("COCO_val2014_000000000042\n\n 8 \r\n", {COCO_42, VG_8}),
    ],
)
def test_lines_are_recognised(tmp_path, text, expected):
    (tmp_path / "task").write_text(text, newline="")
    assert read_task_images(tmp_path / "task", {}, lambda _: None).keys() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"img_id": "1"},\n{"id": 7}]', ":2: names no image: expected img_id, .*, found id"),
        ('{"questions":\n[{"id": 7}]}', ":2: names no image"),
        ('{"info": {"a": 1}}', ": holds no names of images"),
        ("", ": holds no names of images"),
        ("[1.5]", ": holds 1.5, expected names"),
        ('["a",', ": cannot be read"),
    ],
)
def test_other_files_are_named(tmp_path, text, message):
    (tmp_path / "task.json").write_text(text)
    with pytest.raises(DataError, match=f"task.json{message}"):
        read_task_images(tmp_path / "task.json", {}, lambda _: None)


def picture(seed, width=320, height=240):
    """Something with structure of every size, as a photograph has."""
    rng = np.random.default_rng(seed)
    levels = np.zeros((height, width, 3))
    for cells in (4, 8, 16, 32, 64):
        noise = Image.fromarray(rng.integers(0, 256, (cells * 3 // 4, cells, 3)).astype(np.uint8))
        levels += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)) / cells**0.5
    levels = (levels - levels.min()) / np.ptp(levels)
    return Image.fromarray((levels * 255).astype(np.uint8))


def cropped(image, share):
    """Without that share of each side."""
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


COPIES = {
    "recompressed": lambda image: (image, {"quality": 30}),
    "half": lambda image: (image.resize((160, 120)), {"quality": 80}),
    "larger": lambda image: (image.resize((500, 375)), {"quality": 80}),
    "grey": lambda image: (image.convert("L"), {"quality": 80}),
    "cropped": lambda image: (cropped(image, 0.005), {"quality": 80}),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_look_alike(tmp_path, copy):
    apart = []
    for seed in range(6):
        original = picture(seed)
        original.save(tmp_path / "a.png")
        other, settings = COPIES[copy](original)
        other.save(tmp_path / "b.jpg", **settings)
        hashes = [perceptual_hash(tmp_path / name) for name in ("a.png", "b.jpg")]
        apart.append((hashes[0] ^ hashes[1]).bit_count())
    # measured over 200 pictures: 2, of cropped ones 4
    assert max(apart) <= 4


def test_different_pictures_do_not(tmp_path):
    hashes = []
    for seed in range(20):
        picture(seed).save(tmp_path / "a.jpg")
        hashes.append(perceptual_hash(tmp_path / "a.jpg"))
    apart = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(apart) > 10  # measured over 200 pictures: 16


def test_photographs_are_told_apart(tmp_path):
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        pytest.skip("scikit-learn, which brings two photographs, is not installed")
    hashes = []
    for name in ("china.jpg", "flower.jpg"):
        with Image.open(Path(found.origin).parent / "datasets" / "images" / name) as image:
            image.save(tmp_path / "a.jpg", quality=95)
            image.resize((213, 142)).save(tmp_path / "b.jpg", quality=40)
        hashes += [perceptual_hash(tmp_path / copy) for copy in ("a.jpg", "b.jpg")]
    assert (hashes[0] ^ hashes[1]).bit_count() <= 2
    assert (hashes[2] ^ hashes[3]).bit_count() <= 2
    assert (hashes[0] ^ hashes[2]).bit_count() > 16


def test_flat_pictures_have_no_looks(tmp_path):
    Image.new("RGB", (64, 48), (200, 10, 10)).save(tmp_path / "a.jpg")
    assert perceptual_hash(tmp_path / "a.jpg") is None


def test_pairs_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    left = rng.integers(0, 2**64, 37, np.uint64)
    flips = np.uint64(1) << rng.integers(0, 64, (37, 6)).astype(np.uint64)
    near = np.bitwise_xor.reduce(flips, axis=1, initial=0) ^ left
    right = np.concatenate([near, left[:5], rng.integers(0, 2**64, 100, np.uint64)])
    expected = [
        (i, j, (int(a) ^ int(b)).bit_count())
        for i, a in enumerate(left)
        for j, b in enumerate(right)
        if (int(a) ^ int(b)).bit_count() <= 4
    ]
    assert list(pairs_within(left, right, 4)) == expected
    assert len(expected) > 5


IDS = ["COCO_train2014_000000000001", "COCO_val2014_000000000042", "2354786", "8"]


@pytest.fixture
def store(tmp_path):
    """Four images in train; image i has i + 1 captions and one question."""
    make_tokenizer(tmp_path / "tokenizer")
    writer = StoreWriter(
        str(tmp_path / "store"),
        num_objects=2,
        feature_dim=3,
        object_classes=OBJECT_CLASSES,
        attribute_classes=ATTRIBUTE_CLASSES,
        answers=["yes"],
        tokenizer_dir=tmp_path / "tokenizer",
        extractor="none",
    )
    split = writer.split("train")
    rng = np.random.default_rng(0)
    for image_id in IDS:
        split.append(make_record(rng, image_id, 2, 3))
    said = [
        Sentence(image_id, f"{image_id}_{source}_{i}", source, [5, 6], {})
        for place, image_id in enumerate(IDS)
        for source, count in (("mscoco", place + 1), ("vqa", 1))
        for i in range(count)
    ]
    split.close(said)
    writer.finish()
    return str(tmp_path / "store")


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def test_images_are_found_by_name(store, tmp_path, capsys):
    task = write(tmp_path / "vqa.json", {"questions": [{"image_id": 42}, {"image_id": 57870}]})
    clean = write(tmp_path / "clean.json", ["COCO_val2014_000000000043"])
    images = write(tmp_path / "image_data.json", [{"image_id": 2354786, "coco_id": 57870}])
    out = tmp_path / "found.json"
    options = ["--task", task, clean, "--json", str(out)]
    assert audit.main([store, *options]) == 1
    shown = capsys.readouterr()
    assert "error: 1 images of train are in these tasks" in shown.err
    assert "note: images of Visual Genome were not compared with COCO's" in shown.out
    assert audit.main([store, *options, "--vg-image-data", images]) == 1
    shown = capsys.readouterr().out
    head, *rows = shown.splitlines()
    assert head.split("  ")[-2:] == ["mscoco", "vqa"]
    assert [line.split() for line in rows] == [
        ["vqa.json", "train", *"222-52"],
        ["clean.json", "train", *"1-----"],
    ]
    first, second = json.loads(out.read_text())["findings"]
    assert first["images"] == [
        {"image_id": IDS[1], "task_image": "42", "by": "name", "distance": None},
        {"image_id": IDS[2], "task_image": "57870", "by": "name", "distance": None},
    ]
    assert first["pairs"] == {"mscoco": 5, "vqa": 2}
    assert (second["task_images"], second["images"]) == (1, [])


def test_a_clean_store_ends_with_0(store, tmp_path, capsys):
    task = write(tmp_path / "clean.json", {"a": {"imageId": "9", "question": "b?"}})
    assert audit.main([store, "--task", task]) == 0
    assert "error" not in capsys.readouterr().err


def test_images_are_found_by_look(store, tmp_path, capsys):
    for folder in ("ours", "ours/VG_100K", "theirs"):
        (tmp_path / folder).mkdir()
    picture(1).save(tmp_path / "ours" / f"{IDS[0]}.jpg")
    picture(2).save(tmp_path / "ours" / f"{IDS[1]}.png")
    picture(3).save(tmp_path / "ours" / "VG_100K" / "8.jpg")
    picture(5).save(tmp_path / "ours" / "not_in_the_store.jpg")
    picture(3).resize((200, 150)).save(tmp_path / "theirs" / "dev-1-0-img0.png")
    picture(4).save(tmp_path / "theirs" / "dev-1-0-img1.png")
    picture(5).save(tmp_path / "theirs" / "dev-2-0-img0.png")
    options = ["--images", str(tmp_path / "ours"), "--task-images", str(tmp_path / "theirs")]
    out = tmp_path / "found.json"
    assert audit.main([store, *options, "--json", str(out)]) == 1
    assert ["theirs", "train", *"31-141"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]
    (finding,) = json.loads(out.read_text())["findings"]
    (image,) = finding["images"]
    assert (image["image_id"], image["task_image"]) == ("8", "dev-1-0-img0.png")
    assert image["by"] == "look"
    (tmp_path / "ours" / f"{IDS[1]}.png").write_bytes(b"no picture")
    assert audit.main([store, *options]) == 1
    assert f"{IDS[1]}.png: unreadable image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "name a task"),
        (["--task-images", "x"], 2, "name both"),
        (["--task", "none.json"], 1, "none.json: cannot be read"),
        (
            ["--task", "none.json", "--split", "test"],
            2,
            "--split test is not in the store; choose among train",
        ),
        (["--task", "none.json", "--distance", "65"], 2, "from 0 to 64"),
        (["--task-images", "/none", "--images", "/none"], 1, "/none: holds no images"),
    ],
)
def test_wrong_usage_is_named(store, capsys, options, code, message):
    assert audit.main([store, *options]) == code
    assert message in capsys.readouterr().err
