"""The DeepSpeed dict follows from the typed settings."""

import pytest

from lxmert_dist.config import PretrainConfig, deepspeed_config, load_config
from lxmert_dist.errors import ConfigError

LEAST = ["name=x", "data.store=s"]


def derived(*settings: str, world_size: int = 1):
    config = load_config(PretrainConfig, None, [*LEAST, *settings])
    return deepspeed_config(config, world_size=world_size)


def test_the_defaults_leave_deepspeed_its_own():
    found = derived(world_size=2)
    assert found["zero_optimization"] == {
        "stage": 1,
        "reduce_bucket_size": 500_000_000,
        "allgather_bucket_size": 500_000_000,
    }
    assert found["bf16"] == found["fp16"] == {"enabled": False}


def test_settings_become_deepspeeds():
    found = derived(
        "train.zero_stage=2",
        "train.precision=fp16",
        "train.initial_scale_power=8",
        "train.scale_window=50",
        "train.offload_optimizer=true",
        "train.overlap_communication=on",
        "train.reduce_bucket_size=1000",
        "train.allgather_bucket_size=2000",
        "train.micro_batch_size=32",
        world_size=2,
    )
    assert found["zero_optimization"] == {
        "stage": 2,
        "reduce_bucket_size": 1000,
        "allgather_bucket_size": 2000,
        "overlap_comm": True,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
    }
    assert found["fp16"]["initial_scale_power"] == 8
    assert found["fp16"]["loss_scale_window"] == 50
    assert found["fp16"]["loss_scale"] == 0  # dynamic
    assert found["gradient_accumulation_steps"] == 4
    overlap = derived("train.overlap_communication=off", world_size=2)["zero_optimization"][
        "overlap_comm"
    ]
    assert overlap is False


def test_a_single_rank_shares_nothing_in_fp32():
    assert derived("train.zero_stage=3")["zero_optimization"]["stage"] == 0
    for reason in ("train.precision=bf16", "train.offload_optimizer=true"):
        assert derived("train.zero_stage=3", reason)["zero_optimization"]["stage"] == 3


@pytest.mark.parametrize("setting", ["train.offload_optimizer=true", "train.precision=fp16"])
def test_what_stage_0_cannot_do_is_refused(setting):
    with pytest.raises(ConfigError, match="needs zero_stage 1, 2 or 3"):
        derived("train.zero_stage=0", setting)
