"""Fine-tuning as the command does it: sentences about two images, and splits without answers."""

import re

import numpy as np
import pytest
import torch

from lxmert_dist.cli.convert import main as convert
from lxmert_dist.cli.predict import main as predict
from lxmert_dist.cli.report import main as report
from lxmert_dist.config import FinetuneConfig, PretrainConfig, load_config
from lxmert_dist.errors import ConfigError
from lxmert_dist.ingest.image_pairs import pair_id
from lxmert_dist.schema import Sentence
from lxmert_dist.scoring.predictions import read_predictions
from lxmert_dist.store import StoreWriter
from lxmert_dist.train.job import build
from lxmert_dist.train.run import run
from lxmert_dist.train.world import World, join
from runs import NO_DROPOUT, ROOT, SMALL
from tiny_store import ATTRIBUTE_CLASSES, OBJECT_CLASSES, make_record, make_tokenizer

OBJECTS, WIDTH = 2, 8
NLVR2 = ROOT / "configs" / "finetune" / "nlvr2.toml"
LEARNING = (
    "init=scratch",
    "optimizer.learning_rate=3e-3",
    "train.max_steps=0",
    "train.epochs=8",
    "checkpoint.every=0",
    "checkpoint.best=valid/accuracy",
    *NO_DROPOUT,
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Sentences that are true if the first image's objects are larger in number 0 of a feature."""
    directory = tmp_path_factory.mktemp("pairs")
    uri, rng = str(directory / "store"), np.random.default_rng(0)
    writer = StoreWriter(
        uri,
        num_objects=2 * OBJECTS,
        images_per_pair=2,
        feature_dim=WIDTH,
        object_classes=OBJECT_CLASSES,
        attribute_classes=ATTRIBUTE_CLASSES,
        answers=["False", "True"],
        tokenizer_dir=make_tokenizer(directory / "tokenizer"),
        extractor="random numbers",
        images_per_shard=16,
    )
    for name, size in (("train", 512), ("valid", 64), ("test", 32)):
        split, sentences = writer.split(name), []
        for i in range(size):
            images = pair_id([f"{name}/{i}-left", f"{name}/{i}-right"])
            record = make_record(rng, images, 2 * OBJECTS, WIDTH)
            first, second = record.roi_features[:OBJECTS, 0], record.roi_features[OBJECTS:, 0]
            truth = bool(i % 2)
            first[:], second[:] = (3, -3) if truth else (-3, 3)
            split.append(record)
            answers = {} if name == "test" else {str(truth): 1.0}
            sentences.append(Sentence(record.image_id, f"{name}-{i}", "nlvr2", [5, 6], answers))
        split.close(sentences)
    writer.finish()
    return uri


def settings(directory, store, *more):
    return [*SMALL, f"directory={directory}", f"data.store={store}", *LEARNING, *more]


@pytest.mark.distributed
def test_pairs_of_images_are_told_apart(pairs, tmp_path):
    """Either image alone would do, but they must not be mixed up: swapped, all is wrong."""
    config = load_config(FinetuneConfig, NLVR2, settings(tmp_path, pairs))
    join(World(), timeout_seconds=60)
    outcome = run(config, World(), "process")
    assert outcome.final["valid/accuracy"] == 1.0
    assert report([str(tmp_path), "--samples", "2"]) == 0
    page = (tmp_path / "report.html").read_text()
    shown = set(re.findall(r"valid/(\d+)-(left|right)", page))
    assert len(shown) == 4  # two pairs
    assert {side for _, side in shown} == {"left", "right"}

    out = tmp_path / "predictions.jsonl"
    asked = ["--from", str(tmp_path), "--store", pairs, "--split", "test", "--out", str(out)]
    assert predict(asked) == 0
    found = list(read_predictions(out))
    assert {one.uid: one.answer for one in found} == {
        f"test-{i}": str(bool(i % 2)) for i in range(32)
    }
    assert all(sum(score for _, score in one.top) == pytest.approx(1) for one in found)


def test_a_split_without_answers_is_not_scored(pairs, tmp_path):
    with pytest.raises(ConfigError, match=r"no question of split 'test' has an answer.*predict"):
        build(load_config(FinetuneConfig, NLVR2, settings(tmp_path, pairs, "test_split=test")))
    job = build(load_config(FinetuneConfig, NLVR2, settings(tmp_path, pairs, "test_split=")))
    assert job.final == ()


def test_pretraining_takes_one_image_a_sentence(pairs, tmp_path):
    file = ROOT / "configs" / "pretrain" / "easy_vqa.toml"
    changes = [*SMALL, f"directory={tmp_path}", f"data.store={pairs}", "data.sources=[]"]
    with pytest.raises(ConfigError, match="sentences about 2 images each"):
        build(load_config(PretrainConfig, file, changes))


def test_a_head_over_two_images_is_taken_over_if_its_answers_are_the_same(pairs, tmp_path):
    """By way of a checkpoint of ours and of the released code's file."""
    short = ("train.epochs=1", "train.max_steps=2", "test_split=")
    config = load_config(FinetuneConfig, NLVR2, settings(tmp_path / "first", pairs, *short))
    join(World(), timeout_seconds=60)
    run(config, World(), "process")
    exports = [tmp_path / "ours", tmp_path / "released"]
    for kind, out in zip(("lxmert_dist", "lxmert"), exports, strict=True):
        taken = ["--from", str(tmp_path / "first"), "--to", kind, "--out", str(out)]
        assert convert(taken) == 0
    for source in (tmp_path / "first", exports[0]):
        again = settings(tmp_path / "second", pairs, *short, f"init={source}")
        start = build(load_config(FinetuneConfig, NLVR2, again)).start
        assert (start.fresh, start.unused) == ((), ())
    assert "logit_fc.0.weight" in torch.load(exports[1] / "BEST.pth", weights_only=True)
