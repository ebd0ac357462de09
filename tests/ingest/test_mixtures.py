"""Stores of the original data sets and of people's own data, by the command as a user types it."""

import json
import textwrap
from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import save_file

from lxmert_dist.cli import prepare
from lxmert_dist.ingest import own_sentences
from lxmert_dist.store import open_store
from lxmert_files import make_fields, make_item, write_json, write_tsv
from tiny_store import make_tokenizer

TRAIN = [f"COCO_train2014_{i:012d}" for i in (1, 2)]
VAL = [f"COCO_val2014_{i:012d}" for i in (1, 7)]
VG = ["31", "32"]


@pytest.fixture
def common(tmp_path):
    """The options that every command here has."""
    make_tokenizer(tmp_path / "tokenizer")
    return [
        *("--out", str(tmp_path / "store"), "--tokenizer", str(tmp_path / "tokenizer")),
        *("--boxes", "3", "--feature-dim", "8", "--processes", "1"),
    ]


@pytest.fixture
def originals(common, tmp_path):
    """COCO's, VQA's, GQA's and VG's files about six images of which VG's 33 is COCO's val 7."""
    write_tsv(tmp_path / "coco.tsv", [make_fields(i) for i in TRAIN + VAL])
    write_tsv(tmp_path / "vg.tsv", [make_fields(i) for i in [*VG, "33"]])
    pictures = [{"id": i, "file_name": f"{name}.jpg"} for i, name in ((1, TRAIN[0]), (2, TRAIN[1]))]
    captions = [{"id": i, "image_id": i, "caption": "ba be"} for i in (1, 2)]
    asked = [{"question_id": i, "image_id": i, "question": "bi?"} for i in (1, 2)]
    answers = [{"answer": "Yes"}] * 2 + [{"answer": "none"}] * 8
    answered = [{"question_id": i, "image_id": i, "answers": answers} for i in (2, 1)]
    files = {
        "captions": {"images": pictures, "annotations": captions},
        "asked": {"data_subtype": "train2014", "questions": asked},
        "answered": {"annotations": answered},
        "gqa": {
            "a": {"imageId": "33", "question": "bo?", "answer": "teal"},
            "b": {"imageId": "31", "question": "bo?", "answer": "red"},
            "c": {"imageId": "99", "question": "bo?", "answer": "red"},
        },
        "vg_qa": [{"id": 32, "qas": [{"qa_id": 1, "question": "bu?", "answer": "Red."}]}],
        "regions": [{"id": 33, "regions": [{"region_id": 1, "phrase": "da"}] * 3}],
        "image_data": [{"image_id": 33, "coco_id": 7}, {"image_id": 31, "coco_id": None}],
        "all_ans": [
            {"ans": "0", "dsets": ["vqa", "visual7w"]},
            {"ans": "red", "dsets": ["gqa", "visual7w"]},
            {"ans": "teal", "dsets": ["visual7w"]},
            {"ans": "yes", "dsets": ["vqa", "gqa"]},
        ],
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    at = {name: str(tmp_path / f"{name}.json") for name in files}
    return [
        *("lxmert", *common, "--tsv", str(tmp_path / "coco.tsv"), str(tmp_path / "vg.tsv")),
        *("--answers", at["all_ans"], "--coco-captions", at["captions"], "--gqa", at["gqa"]),
        *("--vqa-questions", at["asked"], "--vqa-annotations", at["answered"]),
        *("--vg-qa", at["vg_qa"], "--vg-regions", at["regions"]),
    ]


def answers_of(store, image_id, split="train"):
    """Answers with their scores, of each of the image's sentences that has some."""
    split = store.split(split)
    row = split.image_ids.index(image_id)
    pairs = list(range(split.image_offsets[row], split.image_offsets[row + 1]))
    offsets, ids, scores = split.sentences.answers(pairs)
    return [
        {store.answers[i]: round(float(s), 3) for i, s in zip(ids[a:b], scores[a:b], strict=True)}
        for a, b in pairwise(offsets)
        if a < b
    ]


def test_originals_mix_into_one_store(originals, tmp_path, capsys):
    assert prepare.main(originals) == 0
    shown = capsys.readouterr().err
    assert "train: 5 images, 10 pairs: 2 gqa, 2 mscoco, 3 vg, 1 visual7w, 2 vqa" in shown
    assert "1 sentences whose image has no features" in shown
    store = open_store(str(tmp_path / "store"))
    assert sorted(store.split("train").image_ids) == sorted([*TRAIN, *VG, "33"])
    assert answers_of(store, TRAIN[0]) == [{"yes": 0.6, "0": 1.0}]
    assert answers_of(store, "33") == [{"teal": 1.0}]
    assert answers_of(store, "32") == [{"red": 1.0}]


def test_images_of_both_take_the_features_of_coco(originals, tmp_path):
    originals += ["--vg-image-data", str(tmp_path / "image_data.json"), "--valid", "regions"]
    assert prepare.main(originals) == 0
    store = open_store(str(tmp_path / "store"))
    # named by regions, as COCO's: so what GQA says of it is not trained on
    assert store.split("valid").image_ids == [VAL[1]]
    assert store.manifest.splits["valid"].sources == {"vg": 3}
    assert sorted(store.split("train").image_ids) == sorted([*TRAIN, *VG])
    features = store.split("valid").read_shard(0)[0]
    expected = make_fields(VAL[1])["features"].astype(np.float16)
    np.testing.assert_array_equal(np.asarray(features, np.float16), expected)


def test_published_and_original_files_go_together(originals, tmp_path):
    minival = write_json(tmp_path / "mscoco_minival.json", [make_item(i) for i in VAL])
    assert prepare.main([*originals, "--json", str(minival)]) == 0
    store = open_store(str(tmp_path / "store"))
    assert store.manifest.splits["valid"].sources == {"mscoco": 4, "vqa": 4}
    assert store.manifest.info["json"]["train"][:2] == ["asked.json", "answered.json"]


def test_only_answers_of_the_chosen_data_sets_are_kept(originals, tmp_path, capsys):
    assert prepare.main([*originals, "--qa-sets", "vqa", "gqa"]) == 0
    store = open_store(str(tmp_path / "store"))
    assert store.answers == ["0", "red", "yes"]
    assert answers_of(store, "33") == []
    assert "1 of 7 are outside the table" in capsys.readouterr().err
    assert prepare.main([*originals, "--overwrite", "--qa-sets", "vqa", "vg"]) == 1
    shown = capsys.readouterr().err
    assert "of the data set 'vg'; it knows gqa, visual7w, vqa" in shown


def test_scores_can_be_thirds(originals, tmp_path):
    assert prepare.main([*originals, "--vqa-scores", "thirds"]) == 0
    store = open_store(str(tmp_path / "store"))
    assert answers_of(store, TRAIN[0]) == [{"yes": 0.667, "0": 1.0}]


def test_wrong_usage_is_named(originals, tmp_path, capsys):
    place = originals.index("--vqa-annotations")
    assert prepare.main(originals[:place] + originals[place + 2 :]) == 2
    assert "asked.json lacks its other half" in capsys.readouterr().err
    assert prepare.main(originals[: originals.index("--coco-captions")]) == 2
    assert "name at least one file of sentences: --json, --vqa-q" in capsys.readouterr().err


def test_the_documented_example_runs(tmp_path, monkeypatch):
    make_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "features").mkdir()
    monkeypatch.chdir(tmp_path)
    text = textwrap.dedent(own_sentences.__doc__[own_sentences.__doc__.index("    import json") :])
    code, _, command = text.partition("python launch/prepare.py")
    exec(code, {})
    arguments = command.replace("\\\n", " ").split()
    assert prepare.main([*arguments, "--tokenizer", "tokenizer", "--processes", "1"]) == 0
    store = open_store(str(tmp_path / "data" / "mine"))
    split = store.split("train")
    assert sorted(split.image_ids) == ["a", "b"]
    assert store.manifest.splits["train"].sources == {"own": 2}
    np.testing.assert_array_equal(split.boxes, np.tile(np.float32([0, 0, 1, 1]), (2, 4, 1)))
    assert not np.asarray(split.object_scores).any()


def arrays(**changes):
    rng = np.random.default_rng(3)
    return {
        "roi_features": rng.random((3, 8), np.float32),
        "boxes": np.float32([[0, 0, 32, 24], [32, 24, 64, 48], [1, 2, 3, 4]]),
        "image_size": np.array([48, 64]),
    } | changes


@pytest.fixture
def own(common, tmp_path):
    """Two images in two formats, one of them in a folder of its own, and four sentences."""
    folder = tmp_path / "features"
    (folder / "holiday").mkdir(parents=True)
    labelled = {
        "object_ids": np.array([4, 5, 1599]),
        "object_scores": np.float16([0.5, 1, 0]),
        "attribute_ids": np.array([0, 1, 399]),
        "attribute_scores": np.float64([0.25, 1, 0]),
    }
    np.savez(folder / "holiday" / "1.npz", **arrays(**labelled))
    save_file(arrays(), folder / "b.safetensors")
    lines = [
        {"image_id": "holiday/1", "sentence": "ba be"},
        {"image_id": "holiday/1", "sentence": "bi?", "source": "x", "answers": {"The Sun": 0.5}},
        {"image_id": "b", "sentence": "bo?", "source": "x", "answers": {"yes": 1, "grey": 0.3}},
        {"image_id": "lost", "sentence": "bo"},
    ]
    (tmp_path / "mine.jsonl").write_text("".join(f"{json.dumps(line)}\n\n" for line in lines))
    return [
        *("own", *common, "--sentences", str(tmp_path / "mine.jsonl")),
        *("--features", str(folder)),
    ]


def test_own_data_become_a_store(own, tmp_path, capsys):
    assert prepare.main(own) == 0
    assert "1 sentences whose image has no features" in capsys.readouterr().err
    store = open_store(str(tmp_path / "store"))
    assert store.answers == ["gray", "sun", "yes"]
    split = store.split("train")
    assert store.manifest.splits["train"].sources == {"own": 1, "x": 2}
    assert store.manifest.info["dataset"] == "own"
    assert store.manifest.extractor == "own features, 3 boxes an image"
    row = split.image_ids.index("holiday/1")
    assert split.object_ids[row].tolist() == [4, 5, 1599]
    assert split.attribute_scores[row].tolist() == [0.25, 1, 0]
    assert split.boxes[row][1].tolist() == [0.5, 0.5, 1, 1]
    assert split.sizes[row].tolist() == [48, 64]
    assert answers_of(store, "b") == [{"yes": 1.0, "gray": 0.3}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "mine.jsonl:2: not JSON"),
        ("[]", "mine.jsonl:2: expected an object a line"),
        ('{"image_id": 7, "sentence": "a"}', 'mine.jsonl:2: expected {"image_id": "…", "sente'),
        (
            '{"image_id": "b", "sentence": "a", "answer": "b"}',
            "mine.jsonl:2: unknown key 'answer', a line has answers, image_id, sentence, source",
        ),
        (
            '{"image_id": "b", "sentence": "a", "answers": {"yes": 1.5}}',
            "mine.jsonl:2: score 1.5 of answer 'yes' is outside (0, 1]",
        ),
        ('{"image_id": "b", "sentence": "a", "answers": ["yes"]}', "mine.jsonl:2: answers are ["),
        ('{"image_id": "b", "sentence": "a", "source": 1}', "mine.jsonl:2: source is 1, expecte"),
    ],
)
def test_what_is_wrong_with_own_sentences_is_named(own, tmp_path, capsys, line, message):
    path = tmp_path / "mine.jsonl"
    path.write_text(path.read_text().replace("\n\n", f"\n{line}\n", 1))
    assert prepare.main(own) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": np.zeros((4, 4))}, "boxes is float64 of shape (4, 4), expected floats of shap"),
        ({"image_size": np.float32([48, 64])}, "image_size is float32 of shape (2,), expected in"),
        ({"image_size": np.array([48, 0])}, "an image_size of 48 x 0 pixels"),
        ({"roi_features": np.array([{}])}, "cannot be read (Object arrays cannot be loaded when"),
        ({"roi_features": np.full((3, 8), np.nan)}, "image 'c': roi_features holds NaN or infin"),
        ({"boxes": np.full((3, 4), 65)}, "image 'c': boxes in ["),
    ],
)
def test_what_is_wrong_with_own_features_is_named(own, tmp_path, capsys, changes, message):
    np.savez(tmp_path / "features" / "c.npz", **arrays(**changes))
    with (tmp_path / "mine.jsonl").open("a") as file:
        file.write('{"image_id": "c", "sentence": "ba"}\n')
    assert prepare.main(own) == 1
    assert f"c.npz: {message}" in capsys.readouterr().err


def test_an_array_that_is_not_there_and_damage_are_named(own, tmp_path, capsys):
    save_file({"boxes": arrays()["boxes"]}, tmp_path / "features" / "b.safetensors")
    assert prepare.main(own) == 1
    assert "b.safetensors: has no 'image_size', only " in capsys.readouterr().err
    (tmp_path / "features" / "b.safetensors").write_bytes(b"12345678 no header")
    assert prepare.main(own) == 1
    assert "b.safetensors: cannot be read (" in capsys.readouterr().err


def test_a_directory_without_features_is_named(own, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert prepare.main([*own[:-1], str(tmp_path / "empty")]) == 1
    assert "empty: holds no files of features (.npz or .safetensors)" in capsys.readouterr().err
