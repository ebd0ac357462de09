"""What is staged comes back as it was, or is done again; another job does not go on with it."""

import numpy as np
import pytest

from lxmert_dist.errors import CorruptObjectError, StoreError
from lxmert_dist.ingest.image_list import Refusal
from lxmert_dist.ingest.stage import Stage
from tiny_store import make_record

JOB = {"images": [3, "abc"], "dtype": "float16"}
REFUSED = [Refusal("bad", "photos/bad.jpg", "the file is empty")]


@pytest.fixture
def stage(tmp_path):
    stage = Stage(str(tmp_path / "store.stage"), "float16")
    stage.begin(JOB, anew=False)
    return stage


@pytest.fixture
def records():
    rng = np.random.default_rng(0)
    return [make_record(rng, f"image {i}", 2 + i, 8) for i in range(3)]


def test_records_come_back_rounded(stage, records):
    stage.write(4, records, REFUSED)
    back = list(stage.read(4))
    for record, again in zip(records, back, strict=True):
        assert (again.image_id, again.height, again.width) == (
            record.image_id, record.height, record.width,
        )  # fmt: skip
        rounded = record.roi_features.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(again.roi_features, rounded)
        for name in ("boxes", "object_ids", "object_scores", "attribute_ids", "attribute_scores"):
            np.testing.assert_array_equal(getattr(again, name), getattr(record, name))
    found, damaged = stage.finished()
    assert damaged == 0
    assert list(found) == [4]
    assert found[4].image_ids == [record.image_id for record in records]
    assert found[4].refused == REFUSED


def test_a_task_without_records_is_done_too(stage):
    stage.write(0, [], REFUSED)
    assert stage.finished()[0][0].refused == REFUSED
    assert list(stage.read(0)) == []


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_what_is_damaged_is_found_and_done_again(stage, records, suffix, tmp_path):
    stage.write(0, records, [])
    stage.write(1, records, [])
    file = tmp_path / f"store.stage/tasks/0000001.{suffix}"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptObjectError, match=r"0000001.*run the same command again"):
        list(stage.read(1))
    found, damaged = stage.finished()
    assert (list(found), damaged) == ([0], 1)
    assert stage.finished()[1] == 0


def test_data_without_what_vouches_for_them_are_nothing(stage, records, tmp_path):
    stage.write(0, records, [])
    (tmp_path / "store.stage/tasks/0000000.json").unlink()
    assert stage.finished() == ({}, 0)


def test_another_job_is_told_what_differs(stage, records):
    stage.write(0, records, [])
    stage.begin(JOB, anew=False)
    assert list(stage.finished()[0]) == [0]
    with pytest.raises(StoreError, match=r"was begun with other dtype, seed; .*--overwrite"):
        stage.begin({**JOB, "dtype": "float32", "seed": 1}, anew=False)
    stage.begin({**JOB, "seed": 1}, anew=True)
    assert stage.finished() == ({}, 0)


def test_what_no_extraction_left_is_not_touched(tmp_path):
    mine = tmp_path / "store.stage" / "mine"
    mine.parent.mkdir()
    mine.write_text("precious")
    with pytest.raises(StoreError, match="move it away"):
        Stage(str(mine.parent), "float16").begin(JOB, anew=True)
    assert mine.read_text() == "precious"
