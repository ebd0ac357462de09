"""Settings of the engine that must not change what is trained, and fp16, which may skip a step."""

import shutil

import pytest

from lxmert_dist.errors import ConfigError, NonFiniteLossError
from lxmert_dist.train.checkpoint import find
from runs import NO_DROPOUT, identities, pretrain, worst_difference

SHORT = ("train.max_steps=6", "train.micro_batch_size=16")


@pytest.fixture(scope="module")
def reference(tiny_store, tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("reference"), tiny_store, *NO_DROPOUT, *SHORT)


@pytest.mark.parametrize(
    "settings",
    [
        ["train.zero_stage=1", "train.offload_optimizer=true"],
        ["train.zero_stage=2", "train.offload_optimizer=true"],
        ["train.zero_stage=3", "train.offload_optimizer=true"],
        ["train.zero_stage=1", "train.reduce_bucket_size=500", "train.allgather_bucket_size=500"],
        ["train.zero_stage=2", "train.reduce_bucket_size=500", "train.overlap_communication=on"],
        ["train.zero_stage=3", "train.overlap_communication=off"],
    ],
)
def test_the_engine_trains_the_same(reference, tiny_store, tmp_path, settings):
    entries = pretrain(tmp_path, tiny_store, *NO_DROPOUT, *SHORT, *settings)
    assert identities(entries) == identities(reference)
    assert worst_difference(entries, reference) < 1e-5


@pytest.mark.parametrize("stage", [1, 3])
def test_offloaded_state_comes_back(reference, tiny_store, tmp_path, stage):
    settings = [*NO_DROPOUT, *SHORT, f"train.zero_stage={stage}", "checkpoint.every=3"]
    pretrain(tmp_path, tiny_store, *settings, "train.offload_optimizer=true")
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000006")
    assert worst_difference(pretrain(tmp_path, tiny_store, *settings), reference) < 1e-5


def supports_fp16() -> bool:
    from deepspeed.accelerator import get_accelerator

    return bool(get_accelerator().is_fp16_supported())


def test_fp16_is_refused_where_it_cannot_be_computed(tiny_store, tmp_path):
    if supports_fp16():
        pytest.skip("this device computes in fp16")
    with pytest.raises(ConfigError, match="precision=fp16 cannot be computed on this cpu"):
        pretrain(tmp_path, tiny_store, "train.precision=fp16")


@pytest.fixture
def with_fp16(monkeypatch):
    """torch computes it on any CPU, slowly, which is not what DeepSpeed is asked to answer for."""
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(type(get_accelerator()), "is_fp16_supported", lambda self: True)


@pytest.mark.parametrize("stage", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_a_step_that_overflows_is_skipped_and_said_so(with_fp16, tiny_store, tmp_path, stage):
    settings = [f"train.zero_stage={stage}", "train.precision=fp16", "train.initial_scale_power=24"]
    settings += ["optimizer.name=adamw", "train.scale_window=2", "checkpoint.every=5"]
    whole = pretrain(tmp_path / "whole", tiny_store, *settings)
    skipped = [entry["step"] for entry in whole if entry.get("skipped")]
    assert skipped[0] == 0
    assert 0 < len(skipped) < 12
    cut = tmp_path / "cut"
    pretrain(cut, tiny_store, *settings)
    state = find(str(cut)).state()
    assert state.skipped == len(skipped)
    assert state.loss_scaler["cur_iter"] == 12
    shutil.rmtree(cut / "checkpoints" / "step-00000012")
    state = find(str(cut)).state()
    assert state.skipped == len([step for step in skipped if step < 10])
    # the loss scale and the number of true updates come back: bit for bit
    assert pretrain(cut, tiny_store, *settings) == whole


def test_fp16_trains_near_fp32(with_fp16, reference, tiny_store, tmp_path):
    settings = ["train.precision=fp16", "train.initial_scale_power=4"]
    entries = pretrain(tmp_path, tiny_store, *NO_DROPOUT, *SHORT, *settings)
    assert not any(entry.get("skipped") for entry in entries)
    assert identities(entries) == identities(reference)
    # fp16 keeps 11 bits of a number
    assert 0 < worst_difference(entries, reference) < 0.01


def test_a_loss_scale_that_cannot_help_ends_the_run(with_fp16, tiny_store, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer.has_overflow",
        lambda self, *_, **__: True,
    )
    settings = ["train.precision=fp16", "train.initial_scale_power=1"]
    with pytest.raises(NonFiniteLossError, match="smallest loss scale"):
        pretrain(tmp_path, tiny_store, *settings)
