from collections import Counter
from dataclasses import astuple

import numpy as np
import pytest
from one_step import train_one_step

from lxmert_dist.errors import DataError
from lxmert_dist.ingest import SyntheticImages, prepare_synthetic
from lxmert_dist.ingest.amounts import SOURCES, count_amounts
from lxmert_dist.ingest.synthetic import IMAGES, PAIRS, PIECES, SHORTEST
from lxmert_dist.store import open_store, verify

SMALL = {
    "num_objects": 3,
    "feature_dim": 8,
    "num_object_classes": 20,
    "num_attribute_classes": 10,
    "num_answers": 50,
    "vocab_size": 300,
}


@pytest.fixture(scope="module")
def made():
    return SyntheticImages(5, **SMALL)


@pytest.fixture(scope="module")
def many(made):
    """The sentences of 400 images: some 20,000."""
    return list(made.sentences(np.arange(400)))


@pytest.fixture
def write(tmp_path):
    def run(name, seed=5, num_images=60):
        uri = str(tmp_path / name)
        prepare_synthetic(
            uri, SyntheticImages(seed, **SMALL), num_images=num_images, progress=False
        )
        return open_store(uri)

    return run


def test_counts_are_those_of_the_paper(made):
    images = np.arange(20_000)
    groups, counts = made.groups(images), made.counts(images)
    np.testing.assert_allclose(np.bincount(groups) / 20_000, IMAGES / 180, atol=0.012)  # 0.004
    for group in range(3):
        means = counts[groups == group].mean(axis=0)
        expected = PAIRS[group] / IMAGES[group]
        np.testing.assert_allclose(means, expected, rtol=0.02)  # worst 0.008
    assert counts.sum(axis=1).mean() == pytest.approx(51, abs=0.6)  # 50.9
    captions = counts[groups < 2, 0]
    assert captions.min() == 5


def test_sentences_are_as_long_as_those_of_their_source(many):
    for source, mean, least in zip(SOURCES, PIECES, SHORTEST, strict=True):
        lengths = [len(s.token_ids) for s in many if s.source == source]
        assert min(lengths) >= least
        assert np.mean(lengths) == pytest.approx(mean, rel=0.03)  # worst 0.01


def test_words_and_answers_follow_zipf(many):
    words = Counter(token for s in many for token in s.token_ids)
    assert min(words) == 5
    assert max(words) < 300
    assert words[5] / words[6] == pytest.approx(2, rel=0.1)
    assert words[5] / words[8] == pytest.approx(4, rel=0.1)


def test_questions_alone_have_answers_and_nine_in_ten_do(many):
    questions = [s for s in many if s.source in SOURCES[2:]]
    assert not any(s.answers for s in many if s.source in SOURCES[:2])
    assert np.mean([bool(s.answers) for s in questions]) == pytest.approx(0.9, abs=0.02)
    most = {s: max(len(q.answers) for q in questions if q.source == s) for s in SOURCES[2:]}
    assert most == {"vqa": 3, "gqa": 1, "visual7w": 1}
    assert all(0 < score <= 1 for s in questions for score in s.answers.values())


def test_an_image_is_the_same_in_any_company(made, many):
    for image in (0, 7, 399):
        alone = np.array([image])
        name = made.image_ids(alone)[0]
        assert list(made.sentences(alone)) == [s for s in many if s.image_id == name]
        (record,) = made.records(alone)
        among = list(made.records(np.arange(400)))[image]
        for one, other in zip(astuple(record), astuple(among), strict=True):
            np.testing.assert_array_equal(one, other)


def test_features_differ_and_belong_to_their_class():
    made = SyntheticImages(5, **{**SMALL, "feature_dim": 512})
    records = list(made.records(np.arange(50)))
    features = np.concatenate([r.roi_features for r in records])
    assert len(np.unique(features, axis=0)) == len(features)
    assert features.mean() == pytest.approx(0.5, abs=0.03)
    first, second, *_ = [
        r.roi_features[i] for r in records for i in np.flatnonzero(r.object_ids == 0)
    ]
    assert np.ptp(first / second) < 1e-5  # worst 4e-7: they differ in strength alone


def test_the_store_depends_on_the_seed_alone(write):
    one, same, other = write("a"), write("b"), write("c", seed=6)
    assert one.digest == same.digest
    assert one.digest != other.digest
    assert list(verify(one)) == []


def test_the_store_has_valid_images_of_coco_and_trains(write):
    store = write("a")
    assert list(store.manifest.splits) == ["train", "valid"]
    valid = store.split("valid")
    assert valid.num_images == 2
    assert all(name.startswith("COCO_") for name in valid.image_ids)
    assert not set(valid.image_ids) & set(store.split("train").image_ids)
    amounts = count_amounts(store.split("train")) + count_amounts(valid)
    assert amounts[:, 0].sum() == 60
    assert amounts[0, [2, 4, 5, 6]].tolist() == [0, 0, 0, 0]
    assert amounts[2, [1, 3, 6]].tolist() == [0, 0, 0]
    train_one_step(store)


def test_sizes_that_make_no_store_are_refused(tmp_path):
    with pytest.raises(DataError, match="too few for splits"):
        prepare_synthetic(str(tmp_path), SyntheticImages(5, **SMALL), num_images=1, progress=False)
    with pytest.raises(DataError, match="at least 1 object"):
        SyntheticImages(5, **{**SMALL, "num_objects": 0})
