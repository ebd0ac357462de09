"""Data whose images differ in their number of boxes become a store that counts them."""

import numpy as np
import pytest
from one_step import train_one_step

from lxmert_dist.cli.prepare import main
from lxmert_dist.errors import DataError
from lxmert_dist.ingest import RowSizes, SyntheticImages, prepare_synthetic
from lxmert_dist.ingest.butd_tsv import FeatureFile
from lxmert_dist.ingest.feature_folder import open_features
from lxmert_dist.store import open_store, verify
from lxmert_files import ANSWERS, SIZES, make_fields, make_item, write_json, write_tsv
from tiny_store import make_tokenizer

VARYING = RowSizes(num_objects=12, feature_dim=8, min_objects=2)
COUNTS = (2, 12, 3, 7, 4, 11, 5, 6)


def fields(image_id: str, boxes: int) -> dict:
    return make_fields(image_id, RowSizes(boxes, 8))


@pytest.fixture
def path(tmp_path):
    rows = [fields(f"i{i}", count) for i, count in enumerate(COUNTS)]
    return write_tsv(tmp_path / "adaptive.tsv", rows)


def read_all(path, sizes):
    with FeatureFile(path, sizes) as file:
        return [file.read(row) for row in file.index()]


@pytest.mark.parametrize("line_end", ["\r\n", "\n"])
@pytest.mark.parametrize("counts", [COUNTS, range(1, 101)], ids=["few", "1 to 100"])
def test_rows_of_any_number_are_found_and_read(tmp_path, line_end, counts):
    rows = [fields(f"i{i}", count) for i, count in enumerate(counts)]
    path = write_tsv(tmp_path / "a.tsv", rows, line_end)
    found = read_all(path, RowSizes(max(counts), 8, min(counts)))
    assert [record.image_id for record in found] == [row["img_id"] for row in rows]
    for record, row in zip(found, rows, strict=True):
        np.testing.assert_array_equal(record.roi_features, row["features"])
        np.testing.assert_array_equal(record.object_ids, row["objects_id"])
        assert record.boxes.shape == (row["num_boxes"], 4)


def test_rows_are_found_without_being_measured(path, monkeypatch):
    def measure(*_):
        raise AssertionError("the row's first fields tell its length")

    monkeypatch.setattr(FeatureFile, "_measure", measure)
    assert len(read_all(path, VARYING)) == len(COUNTS)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (RowSizes(2, 8), ":2: (num_boxes is 12, expected 2;|no end of line).*--min-boxes"),
        (RowSizes(12, 8), ":1: num_boxes is 2, expected 12; set --boxes to how many"),
        (RowSizes(11, 8, 2), ":2: num_boxes is 12, expected 2 to 11; set --boxes"),
        (RowSizes(12, 8, 3), ":1: num_boxes is 2, expected 3 to 12; set --boxes"),
    ],
)
def test_a_number_out_of_range_is_named_with_the_option(path, sizes, message):
    with pytest.raises(DataError, match=message):
        read_all(path, sizes)


@pytest.mark.parametrize("least", [0, 13])
def test_an_empty_range_is_refused(least):
    with pytest.raises(DataError, match=f"--min-boxes {least} must be .* at most --boxes 12"):
        RowSizes(12, 8, least)


@pytest.mark.parametrize("name", ["boxes", "features", "objects_id"])
def test_an_array_of_another_length_is_named(tmp_path, name):
    rows = [fields("i0", 4), fields("i1", 5)]
    rows[1][name] = rows[1][name][:-1]
    path = write_tsv(tmp_path / "a.tsv", rows)
    with pytest.raises(DataError, match=f"a.tsv:2: {name} has .* bytes, but .* of shape"):
        read_all(path, VARYING)


def write_own(folder, name, boxes):
    folder.mkdir(exist_ok=True)
    np.savez(
        folder / f"{name}.npz",
        roi_features=np.ones((boxes, 8), np.float32),
        boxes=np.zeros((boxes, 4), np.float32),
        image_size=np.array([48, 64]),
    )


def test_a_folder_of_any_number(tmp_path):
    for boxes in (2, 5):
        write_own(tmp_path / "own", f"i{boxes}", boxes)
    folder = open_features(tmp_path / "own", VARYING)
    assert [len(folder.read(row).boxes) for row in folder.index()] == [2, 5]
    write_own(tmp_path / "own", "i9", 13)
    with pytest.raises(DataError, match=r"i9.npz: 13 boxes, expected 2 to 12; set --boxes"):
        [folder.read(row) for row in open_features(tmp_path / "own", VARYING).index()]


def test_the_command_makes_a_store_that_trains(tmp_path, path, capsys):
    arguments = [
        "lxmert",
        f"--out={tmp_path / 'store'}",
        f"--tsv={path}",
        f"--json={write_json(tmp_path / 'a.json', [make_item(f'i{i}') for i in range(8)])}",
        f"--answers={write_json(tmp_path / 'answers.json', [{'ans': a} for a in ANSWERS])}",
        f"--tokenizer={make_tokenizer(tmp_path / 'tokenizer')}",
        "--valid",
        "--boxes=12",
        "--feature-dim=8",
        "--processes=1",
    ]
    assert main(arguments) != 0
    assert "--min-boxes" in capsys.readouterr().err
    assert main([*arguments, "--min-boxes=2"]) == 0
    store = open_store(str(tmp_path / "store"))
    assert store.manifest.extractor.endswith("2 to 12 boxes an image")
    split = store.split("train")
    found = dict(zip(split.image_ids, split.num_boxes.tolist(), strict=True))
    assert found == {f"i{i}": count for i, count in enumerate(COUNTS)}
    assert not list(verify(store))
    train_one_step(store)


def test_made_up_images_of_any_number(tmp_path):
    sizes = {"num_objects": 9, "feature_dim": 8, "num_answers": 50, "vocab_size": 300}
    uri = str(tmp_path / "store")
    made = SyntheticImages(5, min_objects=3, **sizes)
    prepare_synthetic(uri, made, num_images=60, progress=False)
    store = open_store(uri)
    split = store.split("train")
    assert set(split.num_boxes.tolist()) == set(range(3, 10))
    full = {r.image_id: r for r in SyntheticImages(5, **sizes).records(np.arange(60))}
    for record in made.records(np.arange(60)):
        count = len(record.boxes)
        np.testing.assert_array_equal(record.boxes, full[record.image_id].boxes[:count])
        np.testing.assert_array_equal(
            record.roi_features, full[record.image_id].roi_features[:count]
        )
    assert not list(verify(store))
    train_one_step(store)


@pytest.mark.parametrize("least", [0, 10])
def test_a_range_that_is_none_makes_up_nothing(least):
    with pytest.raises(DataError, match=f"--min-boxes {least} must be at least 1"):
        SyntheticImages(5, num_objects=9, min_objects=least)


def test_sizes_are_those_of_the_published_files_by_default():
    assert RowSizes().min_objects is None
    assert SIZES.of(3) == SIZES
    assert SIZES.of(2) is None
