"""What is fine-tuned on: files of VQA, GQA and NLVR2, and stores of them."""

import json

import numpy as np
import pytest

from lxmert_dist.errors import DataError
from lxmert_dist.ingest import (
    NLVR2_ANSWERS,
    AnswerTable,
    FeatureFormat,
    LxmertFiles,
    Nlvr2Lines,
    RowSizes,
    SentenceFile,
    TaskJson,
    prepare_lxmert,
)
from lxmert_dist.store import open_store, verify
from lxmert_files import SIZES, make_fields, write_json, write_tsv
from tiny_store import WORDS, make_tokenizer

VQA = [
    {
        "question_id": 9,
        "img_id": "COCO_1",
        "sent": "is it?",
        "label": {"yes": 1, "no": 0.3},
        "answer_type": "yes/no",
        "question_type": "is",
    },
    {"question_id": 8, "img_id": "COCO_2", "sent": "what is it?"},
]
GQA = [{"question_id": "07", "img_id": "n1", "sent": "is it?", "label": {"yes": 1.0}}]


def nlvr2(identifier, sent, label):
    images = identifier.rpartition("-")[0]
    record = {"img0": f"{images}-img0", "img1": f"{images}-img1", "sent": sent, "label": label}
    return {"identifier": identifier, "uid": f"nlvr2_{identifier}", **record}


PAIRS = [
    nlvr2("train-1-0-0", "ba be", 1),
    nlvr2("train-1-0-1", "bi", 0),
    nlvr2("train-2-0-0", "bo bu ba", 1),
    nlvr2("train-3-1-0", "da", 0),
]
DEV = [nlvr2("dev-5-0-0", "de di", 0)]


def items(file):
    assert isinstance(file, SentenceFile)
    return list(file.items(lambda _: None))


def test_questions_keep_their_ids_and_scores(tmp_path):
    yes, what = items(TaskJson(write_json(tmp_path / "vqa.json", VQA)))
    assert (yes.image_id, yes.sentences, yes.uids) == (
        "COCO_1",
        {"vqa": ["is it?"]},
        {"vqa": ["9"]},
    )
    assert yes.labels == {"vqa": [{"yes": 1, "no": 0.3}]}
    assert (what.labels, what.uids) == ({}, {"vqa": ["8"]})
    (gqa,) = items(TaskJson(write_json(tmp_path / "gqa.json", GQA)))
    assert (gqa.labels, gqa.uids) == ({"gqa": [{"yes": 1.0}]}, {"gqa": ["07"]})


def test_both_forms_of_nlvr2_say_the_same(tmp_path):
    ours = items(TaskJson(write_json(tmp_path / "train.json", PAIRS)))
    lines = [
        {"identifier": p["identifier"], "sentence": p["sent"], "label": str(bool(p["label"]))}
        for p in PAIRS
    ]
    original = tmp_path / "train_lines.json"
    original.write_text("".join(json.dumps(line) + "\n" for line in lines))
    theirs = items(Nlvr2Lines(original))
    for one, other in zip(ours, theirs, strict=True):
        assert (one.pair, one.sentences, one.labels, one.uids) == (
            other.pair,
            other.sentences,
            other.labels,
            other.uids,
        )
    assert ours[0].pair == ("train-1-0-img0", "train-1-0-img1")
    assert ours[0].labels == {"nlvr2": [{"True": 1.0}]}
    assert ours[0].uids == {"nlvr2": ["train-1-0-0"]}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"question_id": 1, "sent": "a"}, r":1: expected question_id, img_id and sent .* found qu"),
        ({**VQA[0], "label": ["yes"]}, r":1: label is \['yes'\], expected {answer: score}"),
        ({**VQA[0], "label": {"yes": 2}}, r"label of question 9: score 2 of answer 'yes'"),
        (nlvr2("train-1-0-0", "a", 2), r"label is 2, expected 0, 1, True or False"),
        (nlvr2("train-1-0-0", "a", "maybe"), "label is 'maybe'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, entry, message):
    with pytest.raises(DataError, match=message):
        items(TaskJson(write_json(tmp_path / "task.json", [entry])))


def test_a_question_comes_once(tmp_path):
    with pytest.raises(DataError, match=r"task.json:1: question '9' came before"):
        items(TaskJson(write_json(tmp_path / "task.json", [VQA[0], VQA[0]])))
    with pytest.raises(DataError, match="holds no questions"):
        items(TaskJson(write_json(tmp_path / "none.json", [])))


@pytest.fixture
def prepare(tmp_path):
    """Build a store from sentences of NLVR2; returns it."""
    make_tokenizer(tmp_path / "tokenizer")

    def run(train=PAIRS, valid=DEV, test=(), sizes=SIZES, names=None, extra=()):
        parts = {"train": train, "valid": valid, **({"test": test} if test else {})}
        records = [one for part in parts.values() for one in part]
        images = {one[name] for one in records for name in ("img0", "img1") if name in one}
        rows = [make_fields(name) for name in sorted(names or images)]
        files = LxmertFiles(
            [write_tsv(tmp_path / "images.tsv", rows)],
            [TaskJson(write_json(tmp_path / f"{name}.json", part)) for name, part in parts.items()]
            + list(extra),
            ["valid"],
            ["test"] if test else (),
            dataset="task",
        )
        report = prepare_lxmert(
            str(tmp_path / "store"),
            files,
            answers=AnswerTable(NLVR2_ANSWERS, str),
            tokenizer=str(tmp_path / "tokenizer"),
            seed=7,
            features=FeatureFormat(sizes, dtype="float32", images_per_shard=2),
            overwrite=True,
            progress=False,
        )
        return open_store(str(tmp_path / "store")), report

    return run


def test_a_row_has_the_objects_of_both_images(prepare):
    store, report = prepare()
    assert (store.spec.images_per_pair, store.spec.num_objects) == (2, 2 * SIZES.num_objects)
    assert list(verify(store)) == []
    assert report.dropped == {}
    split = store.split("train")
    assert sorted(split.image_ids) == [
        f"{name}-img0+{name}-img1" for name in ("train-1-0", "train-2-0", "train-3-1")
    ]
    features = np.concatenate([split.read_shard(i) for i in range(split.num_shards)])
    for row, pair in enumerate(split.image_ids):
        both = [make_fields(name) for name in pair.split("+")]
        assert (features[row] == np.concatenate([one["features"] for one in both])).all()
        boxes = np.concatenate([one["boxes"] for one in both]) / [64, 48, 64, 48]
        assert np.allclose(split.boxes[row], boxes, atol=1e-6)
        assert (split.object_ids[row] == np.concatenate([o["objects_id"] for o in both])).all()
    uids = split.sentences.uids(range(split.num_pairs))
    assert sorted(uids) == [one["identifier"] for one in PAIRS]
    _, answers, scores = split.sentences.answers(range(split.num_pairs))
    truth = {one["identifier"]: one["label"] for one in PAIRS}
    assert answers.tolist() == [truth[uid] for uid in uids]
    assert (scores == 1).all()


def test_a_pair_that_shares_an_image_with_a_held_out_one_is_not_trained_on(prepare):
    shared = {**nlvr2("dev-9-0-0", "ga", 1), "img0": "train-1-0-img1"}
    store, report = prepare(valid=[*DEV, shared], test=[nlvr2("test1-2-0-0", "ge", None)])
    assert len(store.split("train").image_ids) == 2
    assert report.dropped == {
        "sentences of train whose image is in valid or test": 2,
        "images that no sentence is kept of": 1,  # train-1-0-img0
    }
    test = store.split("test").sentences
    assert test.uids([0]) == ["test1-2-0-0"]
    assert len(test.answers([0])[1]) == 0


def test_a_pair_needs_the_features_of_both_images(prepare):
    names = {one[name] for one in [*PAIRS, *DEV] for name in ("img0", "img1")}
    _, report = prepare(names=names - {"train-2-0-img1"})
    assert report.dropped == {
        "sentences whose image has no features": 1,
        "images that no sentence is kept of": 1,
    }


def test_pairs_and_single_images_do_not_mix(prepare, tmp_path):
    question = {"question_id": 1, "img_id": "dev-5-0-img0", "sent": "fa", "label": {"True": 1}}
    with pytest.raises(DataError, match="some files have sentences about one image, others about"):
        prepare(valid=DEV, test=[question])


def test_pairs_have_a_fixed_number_of_boxes(prepare):
    with pytest.raises(
        DataError, match=r"a row of 2 images has as many boxes of each.*--min-boxes"
    ):
        prepare(sizes=RowSizes(3, 8, 2))


def test_a_file_is_of_one_split(tmp_path, prepare):
    file = TaskJson(write_json(tmp_path / "a.json", VQA))
    with pytest.raises(DataError, match="a is to be both split 'valid' and split 'test'"):
        LxmertFiles([], [file], ["a"], ["a"]).check()
    with pytest.raises(DataError, match="called b, which is to be split 'test'"):
        LxmertFiles([], [file], [], ["b"]).check()


def test_the_command_makes_a_store(tmp_path):
    from lxmert_dist.cli.prepare import main

    make_tokenizer(tmp_path / "tokenizer")
    answers = write_json(tmp_path / "label2ans.json", ["yes", "A Dog."])
    asked = [
        {"question_id": 1, "img_id": "i1", "sent": f"{WORDS[0]}?", "label": {"A Dog.": 0.6}},
        {"question_id": 2, "img_id": "i2", "sent": f"{WORDS[1]}?", "label": {"a dog": 1}},
    ]
    arguments = ["task", "--out", str(tmp_path / "store"), "--answers", str(answers)]
    arguments += [
        "--tsv",
        str(write_tsv(tmp_path / "i.tsv", [make_fields("i1"), make_fields("i2")])),
    ]
    arguments += ["--task-json", str(write_json(tmp_path / "train.json", asked))]
    arguments += ["--tokenizer", str(tmp_path / "tokenizer"), "--boxes", "3", "--feature-dim", "8"]
    assert main([*arguments, "--processes", "1"]) == 0
    sentences = open_store(str(tmp_path / "store")).split("train").sentences
    found = dict(zip(sentences.uids([0, 1]), np.diff(sentences.answers([0, 1])[0]), strict=True))
    assert found == {"1": 1, "2": 0}  # answers are compared letter by letter
