import hashlib

import numpy as np
import pytest
from easy_vqa_files import (
    ANSWERS,
    MeanDetector,
    write_data,
    write_part,
    write_questions,
)

from lxmert_dist.errors import ConfigError, DataError, StoreError
from lxmert_dist.ingest.captions import WORDINGS
from lxmert_dist.ingest.easy_vqa import CAPTIONS, QUESTIONS
from lxmert_dist.ingest.tokenizer import load_tokenizer
from lxmert_dist.store import open_store


def sentences(store, split_name):
    """(uid, text, source, image id, answers) of every pair of a split, from the store alone."""
    split, spec = store.split(split_name), store.spec
    tokenizer, table = load_tokenizer(str(store.tokenizer_dir())), split.sentences
    pairs = np.arange(table.num_pairs)
    token_ids, _ = table.tokens(
        pairs, max_tokens=64, cls_id=spec.cls_id, sep_id=spec.sep_id, pad_id=spec.pad_id
    )
    offsets, answer_ids, _ = table.answers(pairs)
    return [
        (
            uid,
            tokenizer.decode(ids, skip_special_tokens=True),
            table.sources[source],
            split.image_ids[row],
            [store.answers[a] for a in answer_ids[offsets[i] : offsets[i + 1]]],
        )
        for i, (uid, ids, source, row) in enumerate(
            zip(table.uids(pairs), token_ids, table.source_ids, table.image_rows, strict=True)
        )
    ]


def test_splits_share_out_the_images(data_dir, prepare):
    store = open_store(prepare(data_dir))
    ids = {name: set(store.split(name).image_ids) for name in ("train", "valid", "test")}
    assert {name: len(images) for name, images in ids.items()} == {
        "train": 24,
        "valid": 6,
        "test": 6,
    }
    assert ids["train"] | ids["valid"] == {f"train/{i}" for i in range(30)}
    assert ids["test"] == {f"test/{i}" for i in range(6)}
    assert store.answers == sorted(ANSWERS)


def test_sentences_and_features_come_back_from_the_store(data_dir, prepare):
    detector = MeanDetector()
    store = open_store(prepare(data_dir, detector=detector, vocab_size=300))
    split = store.split("train")
    # Two questions an image, which settle colour and shape, so that it has all captions.
    assert split.num_pairs == 24 * (2 + len(WORDINGS))
    for uid, text, source, image_id, answers in sentences(store, "train"):
        number = image_id.removeprefix("train/")
        if source == CAPTIONS:
            assert uid.startswith(f"captions/train/{number}/")
            assert answers == []
        else:
            assert source == QUESTIONS
            assert text.endswith("shape?")
            assert len(answers) == 1
            # The text is the question and nothing else: its answer is not among the words.
            assert answers[0] not in text.rstrip("?").split()
    assert max(detector.batches) == 24
    assert split.read_shard(0).shape == (24, 2, 3)


def test_rows_follow_the_seed(data_dir, prepare):
    stores = [
        open_store(prepare(data_dir, name=f"s{i}", seed=seed)) for i, seed in enumerate((1, 1, 2))
    ]
    orders = [list(store.split("train").image_ids) for store in stores]
    assert stores[0].digest == stores[1].digest
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_test_part_leaves_no_trace_in_training(tmp_path, prepare):
    """Other test images and questions change neither ``train``, ``valid`` nor the tokenizer."""
    detector = MeanDetector()
    mine = open_store(prepare(write_data(tmp_path / "a"), name="mine", detector=detector))
    other = open_store(prepare(write_data(tmp_path / "b", test=9, test_seed=5), name="other"))
    assert mine.manifest.splits["test"] != other.manifest.splits["test"]
    for name in ("train", "valid"):
        assert mine.manifest.splits[name] == other.manifest.splits[name]
        assert not any("test/" in uid or "test/" in i for uid, _, _, i, _ in sentences(mine, name))
    assert mine.manifest.tokenizer == other.manifest.tokenizer
    pixels = {
        name: {detector.seen[i] for i in mine.split(name).image_ids}
        for name in ("train", "valid", "test")
    }
    assert not pixels["test"] & (pixels["train"] | pixels["valid"])
    assert {source for _, _, source, _, _ in sentences(mine, "test")} == {QUESTIONS}


def test_annotations_change_no_label_of_an_object(tmp_path, prepare):
    """Features, object ids and attribute ids come from the pixels alone."""
    mine = open_store(prepare(write_data(tmp_path / "a"), name="mine"))
    changed = write_data(tmp_path / "b")
    write_questions(changed, "train", [["is there a red shape?", "yes", i] for i in range(30)])
    other = open_store(prepare(changed, name="other"))
    for name in ("train", "valid", "test"):
        a, b = (store.manifest.splits[name] for store in (mine, other))
        assert [shard.chunk for shard in a.shards] == [shard.chunk for shard in b.shards]
        assert a.arrays == b.arrays
    assert mine.manifest.splits["train"].sentences != other.manifest.splits["train"].sentences


def test_captions_follow_the_annotations_of_their_own_image(data_dir, prepare):
    write_questions(
        data_dir,
        "train",
        [["what color is the circle?", "blue", 3], ["what color is the shape?", "red", 4]]
        + [["is there a circle?", "yes", i] for i in range(30) if i != 3]
        + [[f"is there a {c} shape?", "no", i] for c in ("red", "blue") for i in range(5, 30)],
    )
    store = open_store(prepare(data_dir, vocab_size=300))
    pairs = [pair for name in ("train", "valid") for pair in sentences(store, name)]
    said = {}
    for _, text, source, image_id, _ in pairs:
        if source == CAPTIONS:
            said.setdefault(image_id, set()).add(text)
    assert set(said) == {"train/3", "train/4"}
    assert "a blue circle" in said["train/3"]
    assert "a red circle" in said["train/4"]


def test_a_limit_takes_the_first_images(data_dir, prepare):
    store = open_store(prepare(data_dir, limit=5))
    assert set(store.split("test").image_ids) == {f"test/{i}" for i in range(5)}
    train = set(store.split("train").image_ids) | set(store.split("valid").image_ids)
    assert train == {f"train/{i}" for i in range(5)}


def test_a_given_tokenizer_is_used(data_dir, prepare, tmp_path):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.txt").write_text("\n".join([*special, "shape", "red", "?"]) + "\n")
    store = open_store(prepare(data_dir, tokenizer=str(tmp_path / "words")))
    assert store.spec.vocab_size == 8


def test_the_installed_package(prepare):
    detector = MeanDetector()
    store = open_store(prepare(None, detector=detector, limit=40, valid_fraction=0.1))
    assert {name: store.split(name).num_images for name in ("train", "valid", "test")} == {
        "train": 36,
        "valid": 4,
        "test": 40,
    }
    assert len(store.answers) == 13
    assert set(store.split("train").sentences.sources) == {QUESTIONS, CAPTIONS}
    pixels = {part: set() for part in ("train", "test")}
    for image_id, digest in detector.seen.items():
        pixels[image_id.split("/")[0]].add(digest)
    assert not pixels["train"] & pixels["test"]


def test_all_images_of_the_package_are_in_one_part_only():
    from lxmert_dist.ingest.easy_vqa import package_data, read_answers, read_part

    root = package_data()
    answers = read_answers(root)
    parts = {name: read_part(root, name, answers) for name in ("train", "test")}
    assert [len(part.questions) for part in parts.values()] == [38_575, 9_673]
    digests = [
        {hashlib.sha256(path.read_bytes()).digest() for path in part.images.values()}
        for part in parts.values()
    ]
    assert not digests[0] & digests[1]


def test_an_unreadable_image_is_named(data_dir, prepare):
    (data_dir / "train" / "images" / "3.png").write_bytes(b"\x89PNG but not really")
    with pytest.raises(DataError, match=r"3\.png: no image that Pillow can decode"):
        prepare(data_dir)


def test_a_truncated_image_is_named(data_dir, prepare):
    path = data_dir / "test" / "images" / "2.png"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"2\.png: truncated or damaged"):
        prepare(data_dir)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (["is there a circle?", "yes", 99], "question 0 .* has no image train/99"),
        (["is there a circle?", "perhaps", 1], "'perhaps', which is not in .*answers.txt"),
        (["is there a circle?", "yes"], "entry 0 is not"),
        (["what color is the circle?", "red", 2, 3], "entry 0 is not"),
    ],
)
def test_bad_questions_are_refused_before_any_work(data_dir, prepare, question, message):
    write_questions(data_dir, "train", [question])
    detector = MeanDetector()
    with pytest.raises(DataError, match=message):
        prepare(data_dir, detector=detector)
    assert detector.batches == []


def test_contradicting_answers_name_the_image(data_dir, prepare):
    write_questions(
        data_dir, "train", [["is there a circle?", "yes", 5], ["is no circle present?", "yes", 5]]
    )
    with pytest.raises(DataError, match="image train/5: the answers contradict"):
        prepare(data_dir)


@pytest.mark.parametrize("name", ["answers.txt", "train/questions.json", "test/questions.json"])
def test_missing_and_malformed_files_are_named(data_dir, prepare, name):
    (data_dir / name).write_text("")
    with pytest.raises(DataError, match=name):
        prepare(data_dir)
    (data_dir / name).unlink()
    with pytest.raises(DataError, match=f"{name}: unreadable"):
        prepare(data_dir)


def test_a_part_without_images_is_refused(tmp_path, prepare):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "answers.txt").write_text("yes\n")
    write_part(tmp_path / "data", "train", 0, seed=0)
    with pytest.raises(DataError, match="images: no images"):
        prepare(tmp_path / "data")


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.001, -0.5, 1.5])
def test_a_fraction_that_empties_a_split_is_refused(data_dir, prepare, fraction):
    with pytest.raises(ConfigError, match="valid_fraction"):
        prepare(data_dir, valid_fraction=fraction)


def test_a_finished_store_is_kept_unless_told_otherwise(data_dir, prepare):
    uri = prepare(data_dir)
    with pytest.raises(StoreError, match="overwrite"):
        prepare(data_dir)
    prepare(data_dir, overwrite=True, seed=8)
    assert open_store(uri).manifest.info["seed"] == 8
