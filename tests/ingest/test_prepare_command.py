"""The command, as a user types it."""

import json

import pytest

from lxmert_dist.cli import prepare
from lxmert_dist.store import open_store
from lxmert_files import ANSWERS, make_fields, make_item, write_json, write_tsv
from tiny_store import make_tokenizer


@pytest.fixture
def arguments(tmp_path):
    """A command line for three images, the last of them minival's."""
    ids = ["COCO_train2014_1", "COCO_train2014_2", "COCO_val2014_3"]
    write_tsv(tmp_path / "train2014.tsv", [make_fields(i) for i in ids[:2]])
    write_tsv(tmp_path / "val2014.tsv", [make_fields(ids[2])])
    write_json(tmp_path / "mscoco_train.json", [make_item(i) for i in ids[:2]])
    write_json(tmp_path / "mscoco_minival.json", [make_item(ids[2])])
    table = [{"ans": answer, "dsets": ["vqa"]} for answer in ANSWERS]
    (tmp_path / "all_ans.json").write_text(json.dumps(table))
    (tmp_path / "attributes.txt").write_text("".join(f"a{i}\n" for i in range(400)))
    make_tokenizer(tmp_path / "tokenizer")
    return [
        *("lxmert", "--out", str(tmp_path / "store"), "--boxes", "3", "--feature-dim", "8"),
        *("--tsv", str(tmp_path / "train2014.tsv"), str(tmp_path / "val2014.tsv")),
        *("--json", *(str(tmp_path / f"mscoco_{name}.json") for name in ("train", "minival"))),
        *("--answers", str(tmp_path / "all_ans.json")),
        *("--tokenizer", str(tmp_path / "tokenizer")),
        *("--attribute-classes", str(tmp_path / "attributes.txt"), "--dtype", "float32"),
    ]


def test_published_files_become_a_store_with_a_report(arguments, tmp_path, capsys):
    assert prepare.main(arguments) == 0
    shown = capsys.readouterr().err
    assert "train: 2 images, 8 pairs: 4 mscoco, 4 vqa" in shown
    assert "left out: nothing" in shown
    store = open_store(str(tmp_path / "store"))
    assert store.answers == ANSWERS
    assert store.attribute_classes[399] == "a399"
    assert store.object_classes[1599] == "object 1599"
    assert store.manifest.feature_dtype == "float32"
    assert str(tmp_path) not in store.manifest.model_dump_json()


def test_valid_can_be_another_file_and_mistakes_are_shown_in_a_line(arguments, tmp_path, capsys):
    assert prepare.main([*arguments, "--valid", "mscoco_train"]) == 0
    assert open_store(str(tmp_path / "store")).split("valid").num_images == 2
    with (tmp_path / "val2014.tsv").open("ab") as file:
        file.write(b"COCO_val2014_4\t48\t64\tAAAA")
    capsys.readouterr()
    assert prepare.main([*arguments, "--overwrite"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "val2014.tsv:2: the file ends after" in last


def test_a_synthetic_store_is_made_by_one_line(tmp_path, capsys):
    line = ["synthetic", "--images", "8", "--out", str(tmp_path / "s"), "--boxes", "2"]
    assert prepare.main([*line, "--feature-dim", "4", "--seed", "3"]) == 0
    assert "VG-Cap" in capsys.readouterr().err
    store = open_store(str(tmp_path / "s"))
    assert store.spec.vocab_size == 30522
    assert store.spec.num_answers == 9500
    assert store.manifest.info == {"dataset": "synthetic", "seed": 3}


def test_settings_of_no_detector_are_refused(tmp_path, capsys):
    line = ["easy-vqa", "--out", str(tmp_path / "s"), "--set", "selection.boxes=8"]
    assert prepare.main(line) == 2
    assert "--set selection.boxes=8 is of a detector; name it" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
