import numpy as np
import pytest
from easy_vqa_files import MeanDetector
from PIL import Image

from lxmert_dist.errors import DataError
from lxmert_dist.ingest import build_store, train_wordpiece
from lxmert_dist.ingest.source import RawSentence, RawSplit
from lxmert_dist.store import open_store


@pytest.fixture
def images(tmp_path):
    paths = {}
    for i in range(5):
        paths[f"i{i}"] = tmp_path / f"{i}.png"
        Image.fromarray(np.full((4, 6, 3), 50 * i, np.uint8)).save(paths[f"i{i}"])
    return paths


@pytest.fixture
def build(tmp_path):
    def run(split, detector, **settings):
        train_wordpiece(["a red thing"], tmp_path / "tokenizer", 60)
        uri = str(tmp_path / "store")
        build_store(
            uri,
            {"train": split},
            detector=detector,
            tokenizer_dir=tmp_path / "tokenizer",
            answers=["yes"],
            seed=3,
            **settings,
        )
        return open_store(uri)

    return run


def said(image_id, text="a red thing", answers=None):
    return RawSentence(image_id, f"uid {image_id}", "captions", text, answers or {})


def test_features_are_those_of_the_row_and_bars_are_shown(images, build, capsys):
    detector = MeanDetector()
    split = RawSplit(images, [said(i) for i in images])
    store = build(split, detector, batch_size=2, images_per_shard=3)
    assert detector.batches == [2, 2, 1]
    rows = store.split("train")
    features = np.concatenate([rows.read_shard(0), rows.read_shard(1)])
    brightness = [50 * int(image_id[1]) / 255 for image_id in rows.image_ids]
    np.testing.assert_allclose(features[:, 0, 0], brightness, atol=1e-3)
    shown = capsys.readouterr().err
    assert "images of train" in shown
    assert "img/s" in shown


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        (said("i9"), "uid i9: its image i9 is missing"),
        (said("i1", answers={"maybe": 1.0}), "uid i1: answer 'maybe' is not in the answer table"),
    ],
)
def test_what_does_not_fit_is_refused_before_detection(images, build, sentence, message):
    detector = MeanDetector()
    with pytest.raises(DataError, match=message):
        build(RawSplit(images, [sentence]), detector, progress=False)
    assert detector.batches == []


def test_an_empty_sentence_is_named(images, build):
    with pytest.raises(DataError, match="uid i1"):
        build(RawSplit(images, [said("i1", " ")]), MeanDetector(), progress=False)


def test_a_palette_image_is_read_as_rgb(images, build):
    Image.new("P", (3, 2)).save(images["i0"])
    store = build(RawSplit(images, [said("i0")]), MeanDetector(), progress=False)
    assert store.split("train").num_images == 5
