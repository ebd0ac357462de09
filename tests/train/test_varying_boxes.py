"""Pretraining on images that differ in their number of boxes."""

import shutil

import pytest

from lxmert_dist.store import open_store
from runs import NO_DROPOUT, identities, pretrain, worst_difference
from tiny_store import make_tiny_store

pytestmark = pytest.mark.distributed

STEPS = (*NO_DROPOUT, "train.max_steps=8", "objectives.object_random_fraction=0.2")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("varying") / "store")
    make_tiny_store(uri, objects=9, min_objects=2)
    assert set(open_store(uri).split("train").num_boxes.tolist()) == set(range(2, 10))
    return uri


@pytest.fixture(scope="module")
def golden(store, tmp_path_factory):
    """One rank, one micro-batch a step."""
    return pretrain(tmp_path_factory.mktemp("golden"), store, *STEPS)


def test_two_ranks_and_accumulation_give_the_losses_of_one(golden, store, tmp_path):
    entries = pretrain(tmp_path, store, *STEPS, "train.micro_batch_size=8", ranks=2)
    assert identities(entries) == identities(golden)
    assert worst_difference(entries, golden) < 1e-5


def test_a_run_that_lost_its_last_steps_makes_them_again(golden, store, tmp_path):
    pretrain(tmp_path, store, *STEPS)
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000008")
    assert pretrain(tmp_path, store, *STEPS) == golden
