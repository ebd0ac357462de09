"""Runs whose sources are weighed and change by step: what they train on, and going on with them."""

import shutil
from itertools import groupby

import pytest

from lxmert_dist.errors import CheckpointError, ConfigError
from lxmert_dist.store import open_store
from lxmert_dist.stream.loader import index_pairs
from lxmert_dist.train.checkpoint import find
from runs import ledger, pretrain

CURRICULUM = (
    "train.max_steps=24",
    "data.curriculum=[[0, {questions = 0.0, captions = 0.5}], [9, {}], [12, {captions = 0.0}]]",
    "checkpoint.keep=9",
    "checkpoint.every=5",
)


@pytest.fixture(scope="module")
def directory(tiny_store, tmp_path_factory):
    """Of a run that came to its end."""
    directory = tmp_path_factory.mktemp("curriculum")
    pretrain(directory, tiny_store, *CURRICULUM)
    return directory


def test_stages_end_passes_and_turn_sources_off(tiny_store, directory):
    split = open_store(tiny_store).split("train")
    captions = len(index_pairs(split, ("captions",)))
    questions = split.num_pairs - captions
    entries = ledger(directory)
    epochs = [entry["epoch"] for entry in entries]
    assert epochs == sorted(epochs)
    lengths = [len(list(steps)) for _, steps in groupby(epochs)]
    assert sum(lengths) == 24
    assert lengths[0] == round(captions / 2) // 32
    begins = [sum(lengths[:k]) for k in range(len(lengths))]
    assert {9, 12} <= set(begins), "each stage begins a pass"
    assert lengths[epochs[12]] == min(questions // 32, 12)
    asked = ["image_qa" in entry["losses"] for entry in entries]
    assert not any(asked[:9])
    assert all(asked[9:])


@pytest.mark.parametrize("step", [5, 10, 15])
def test_a_run_goes_on_across_stages(tiny_store, directory, tmp_path, step):
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    for checkpoint in (tmp_path / "checkpoints").iterdir():
        if checkpoint.name > f"step-{step:08d}":
            shutil.rmtree(checkpoint)
    assert pretrain(tmp_path, tiny_store, *CURRICULUM) == ledger(directory)


def test_checkpoints_come_at_the_end_of_passes_and_other_weights_are_refused(tiny_store, tmp_path):
    weights = "data.source_weights={captions = 0.25, questions = 0.5}"
    settings = ("train.max_steps=0", "train.epochs=3", "checkpoint.every=0", "checkpoint.keep=9")
    entries = pretrain(tmp_path, tiny_store, *settings, weights)
    per_pass = len(entries) // 3
    assert [entry["epoch"] for entry in entries] == [k // per_pass for k in range(3 * per_pass)]
    kept = sorted((tmp_path / "checkpoints").iterdir())
    states = [find(str(checkpoint)).state() for checkpoint in kept]
    assert [(state.step, state.epoch, state.epoch_step) for state in states] == [
        (k * per_pass, k, 0) for k in (1, 2, 3)
    ]
    with pytest.raises(CheckpointError, match=r"data\.source_weights\.questions: 0\.5 -> 0\.75"):
        pretrain(tmp_path, tiny_store, *settings, weights.replace("0.5", "0.75"))


def test_sources_that_are_not_there_are_refused_before_training(tiny_store, tmp_path):
    with pytest.raises(ConfigError, match="weights are given for poems"):
        pretrain(tmp_path, tiny_store, "data.source_weights={poems = 0.5}")
    settings = ('data.sources=["questions"]', "data.source_weights={captions = 0.5}")
    with pytest.raises(ConfigError, match=r"given for captions, but .* are questions;"):
        pretrain(tmp_path, tiny_store, *settings)
