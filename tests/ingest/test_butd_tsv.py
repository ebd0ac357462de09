import base64
import csv
import os
import sys

import numpy as np
import pytest

from lxmert_dist.errors import DataError
from lxmert_dist.ingest.butd_tsv import FIELDS, FeatureFile, RowSizes
from lxmert_files import HEIGHT, SIZES, WIDTH, damage_line, make_fields, write_tsv


@pytest.fixture
def path(tmp_path):
    return write_tsv(tmp_path / "obj36.tsv", [make_fields(f"i{i}") for i in range(4)])


def read_all(path, sizes=SIZES):
    with FeatureFile(path, sizes) as file:
        return [file.read(row) for row in file.index()]


def read_as_released(path, sizes):
    """As the released loader reads a file, column by column."""
    csv.field_size_limit(sys.maxsize)
    with path.open() as stream:
        for item in csv.DictReader(stream, FIELDS, delimiter="\t"):
            for key in ("img_h", "img_w", "num_boxes"):
                item[key] = int(item[key])
            objects = item["num_boxes"]
            for key, shape, dtype in (
                ("objects_id", (objects,), np.int64),
                ("objects_conf", (objects,), np.float32),
                ("attrs_id", (objects,), np.int64),
                ("attrs_conf", (objects,), np.float32),
                ("boxes", (objects, 4), np.float32),
                ("features", (objects, -1), np.float32),
            ):
                item[key] = np.frombuffer(base64.b64decode(item[key]), dtype).reshape(shape)
            yield item


@pytest.mark.parametrize("line_end", ["\r\n", "\n"])
@pytest.mark.parametrize("sizes", [SIZES, RowSizes()], ids=["small", "published"])
def test_rows_are_what_the_released_loader_reads(tmp_path, sizes, line_end):
    rows = [make_fields(name, sizes) for name in ("COCO_val2014_000000000042", "7")]
    path = write_tsv(tmp_path / "a.tsv", rows, line_end)
    expected = list(read_as_released(path, sizes))
    found = read_all(path, sizes)
    assert [record.image_id for record in found] == [item["img_id"] for item in expected]
    for record, item in zip(found, expected, strict=True):
        assert (record.height, record.width) == (item["img_h"], item["img_w"])
        np.testing.assert_array_equal(record.roi_features, item["features"])
        np.testing.assert_array_equal(record.object_ids, item["objects_id"])
        np.testing.assert_array_equal(record.object_scores, item["objects_conf"])
        np.testing.assert_array_equal(record.attribute_ids, item["attrs_id"])
        np.testing.assert_array_equal(record.attribute_scores, item["attrs_conf"])
        pixels = record.boxes * np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float64)
        np.testing.assert_allclose(pixels, item["boxes"], rtol=1e-6)  # worst 6e-8
        assert record.boxes.dtype == np.float32


def test_a_file_is_indexed_for_a_fraction_of_its_bytes(tmp_path, monkeypatch):
    sizes = RowSizes(36, 2048)
    path = write_tsv(tmp_path / "a.tsv", [make_fields(f"i{i}", sizes) for i in range(3)])
    read = []
    pread = os.pread

    def counted(descriptor, length, start):
        found = pread(descriptor, length, start)
        read.append(len(found))
        return found

    monkeypatch.setattr(os, "pread", counted)
    with FeatureFile(path, sizes) as file:
        rows = list(file.index())
    assert [row.line for row in rows] == [1, 2, 3]
    assert sum(read) < path.stat().st_size / 500


def test_a_last_line_without_an_end_is_whole(path):
    path.write_bytes(path.read_bytes().removesuffix(b"\r\n"))
    assert len(read_all(path)) == 4
    path.write_bytes(path.read_bytes() + b"\r")
    assert len(read_all(path)) == 4


def test_numbers_may_be_spelled_in_another_length(path):
    damage_line(path, 2, b"\t3\t", b"\t0003\t")
    assert [record.image_id for record in read_all(path)] == ["i0", "i1", "i2", "i3"]


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:-keep])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: damage_line(p, 3, b"\t48\t", b"\t48\t48\t"), ":3: 11 fields, but a row has 10"),
        (lambda p: damage_line(p, 3, b"\t48\t", b"\t"), ":3: 9 fields"),
        (lambda p: damage_line(p, 3, b"\t48\t", b"\ttall\t"), ":3: img_h is b'tall'"),
        (lambda p: damage_line(p, 3, b"\t48\t", b"\t0\t"), ":3: a size of 0 x 64 pixels"),
        (lambda p: damage_line(p, 3, b"\t3\t", b"\t4\t"), ":3: num_boxes is 4, expected 3"),
        (lambda p: damage_line(p, 3, b"i2\t", b"\xff\xff\t"), ":3: img_id is not UTF-8"),
        (lambda p: damage_line(p, 3, b"i2\t", b"\t"), ":3: img_id is empty"),
        (lambda p: damage_line(p, 3, b"\t3\t", b"\t3\t*"), ":3: boxes is not base64"),
        (lambda p: damage_line(p, 3, b"\r\n", b"AAAA\r\n"), ":3: features (is not|has 99 bytes)"),
        (lambda p: damage_line(p, 3, b"\r\n", b"\r\n\r\n"), ":4: 1 fields"),
        (lambda p: cut(p, 7), ":4: the file ends after .* of .* bytes of this row: it was cut"),
        (lambda p: cut(p, 300), ":4: the file ends after .* bytes of this row: it was cut"),
        (lambda p: p.write_bytes(b""), "obj36.tsv: the file is empty"),
        (lambda p: p.write_bytes(b"x" * 5000), ":1: no end of line within"),
        (lambda p: p.unlink(), "obj36.tsv: cannot be read .No such file"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(path, damage, message):
    damage(path)
    with pytest.raises(DataError, match=message):
        read_all(path)


@pytest.mark.parametrize("name", ["objects_id", "boxes", "features"])
def test_arrays_of_another_length_are_named(tmp_path, name):
    rows = [make_fields("i0"), make_fields("i1")]
    rows[1][name] = rows[1][name][:-1]
    path = write_tsv(tmp_path / "a.tsv", rows)
    with pytest.raises(DataError, match=f"a.tsv:2: {name} has .* bytes, but .* of shape"):
        read_all(path)


def test_a_damaged_letter_shows_when_the_row_is_read(path):
    """Not when it is indexed: the row is as long as it should be."""
    text = path.read_bytes()
    path.write_bytes(text[:-40] + b"*" + text[-39:])
    with FeatureFile(path, SIZES) as file:
        *_, last = file.index()
        with pytest.raises(DataError, match=":4: features is not base64"):
            file.read(last)


def test_a_file_that_changes_is_not_trusted(path):
    with FeatureFile(path, SIZES) as file:
        rows = list(file.index())
        damage_line(path, 2, b"i1", b"i9")
        file.read(rows[0])
        with pytest.raises(DataError, match=":2: the file changed"):
            file.read(rows[1])


def test_short_reads_are_gone_on_with(path, monkeypatch):
    whole = read_all(path)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, start: pread(fd, min(n, 50), start))
    for one, other in zip(read_all(path), whole, strict=True):
        np.testing.assert_array_equal(one.roi_features, other.roi_features)
