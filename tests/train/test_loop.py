"""Steps without answers are no NaN; losses that are not finite stop the run before it moves."""

import math

import pytest
import torch

from lxmert_dist.config import PretrainConfig, load_config
from lxmert_dist.errors import NonFiniteLossError
from lxmert_dist.train import loop
from lxmert_dist.train.checkpoint import find
from lxmert_dist.train.run import run
from lxmert_dist.train.world import World, identity_of, identity_parts, total
from runs import DEFAULTS, SMALL, ledger, pretrain


def test_captions_alone_train_without_answers(tiny_store, tmp_path):
    entries = pretrain(tmp_path, tiny_store, 'data.sources=["captions"]', "train.max_steps=4")
    assert len(entries) == 4
    for entry in entries:
        assert "image_qa" not in entry["losses"]
        assert all(math.isfinite(loss) for loss in entry["losses"].values())


def test_a_loss_that_is_not_finite_stops_before_the_optimiser_moves(
    tiny_store, tmp_path, monkeypatch
):
    pretrain(tmp_path, tiny_store, "train.max_steps=4")
    before = find(str(tmp_path)).tensors("weights")
    original = loop.Trainer._step

    def poisoned(self, batch):
        if self.step == 5:
            for micro_batch in batch.micro_batches:
                micro_batch.inputs.roi_features.fill_(float("nan"))
        if self.step == 6:
            raise AssertionError("the run went on")
        original(self, batch)

    monkeypatch.setattr(loop.Trainer, "_step", poisoned)
    other = tmp_path / "other"
    chosen = [*SMALL, f"directory={other}", f"data.store={tiny_store}", "checkpoint.every=1"]
    with pytest.raises(NonFiniteLossError, match=r"step 5: .*masked_lm.*not finite"):
        run(load_config(PretrainConfig, DEFAULTS, chosen), World(), "process")
    assert len(ledger(other)) == 5
    assert find(str(other)).state().step == 5
    for tensor in find(str(other)).tensors("weights").values():
        assert torch.isfinite(tensor).all()
    assert before.keys() == find(str(other)).tensors("weights").keys()


def test_totals_keep_every_bit():
    assert total({"a": 0.1, "b": torch.tensor(2)}, World()) == {"a": 0.1, "b": 2.0}
    identity = 0xFEDCBA9876543210
    assert identity_of(total(identity_parts(identity), World())) == identity
