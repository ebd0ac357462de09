"""A run that is killed goes on as if nothing had happened."""

import shutil

import pytest

from lxmert_dist.errors import CheckpointError
from runs import (
    NO_DROPOUT,
    SMALL,
    at_stage,
    identities,
    ledger,
    pretrain,
    pretrain_and_kill,
    run,
    worst_difference,
)

STEPS = (
    "train.max_steps=24",
    "checkpoint.every=5",
    "model.hidden_dropout=0.1",
    "model.attention_dropout=0.1",
)
pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def undisturbed(tiny_store, tmp_path_factory):
    """With dropout: a resumed run must repeat that too."""
    return pretrain(tmp_path_factory.mktemp("undisturbed"), tiny_store, *STEPS)


@pytest.mark.parametrize("kill_step", [3, pytest.param(13, marks=pytest.mark.slow)])
def test_sigkill_then_the_same_command_gives_the_same_run(
    undisturbed, tiny_store, tmp_path, kill_step
):
    settings = [*SMALL, *STEPS, f"directory={tmp_path}", f"data.store={tiny_store}"]
    pretrain_and_kill(settings, tmp_path, kill_step)
    assert len(ledger(tmp_path)) < 24
    done = run("pretrain.py", settings)
    assert done.code == 0, done.output
    assert ledger(tmp_path) == undisturbed


@pytest.mark.parametrize(
    ("ranks", "stages", "optimizer"),
    [
        ((2, 1), (2, 3), "bert_adam"),
        ((1, 2), (1, 3), "bert_adam"),
        ((1, 1), (0, 1), "bert_adam"),
        ((2, 2), (3, 0), "bert_adam"),
        # Corrects its bias, so that the number of steps must come back too.
        ((1, 1), (0, 2), "adamw"),
        ((2, 1), (3, 0), "adamw"),
    ],
)
def test_a_checkpoint_fits_other_stages_and_ranks(tiny_store, tmp_path, ranks, stages, optimizer):
    settings = [*NO_DROPOUT, f"optimizer.name={optimizer}"]
    whole = pretrain(tmp_path / "whole", tiny_store, *settings)
    cut = tmp_path / "cut"
    ended = pretrain(cut, tiny_store, *settings, *at_stage(stages[0]), ranks=ranks[0])
    assert len(ended) == 12
    shutil.rmtree(cut / "checkpoints" / "step-00000012")
    entries = pretrain(cut, tiny_store, *settings, *at_stage(stages[1]), ranks=ranks[1])
    assert identities(entries) == identities(whole)
    assert worst_difference(entries, whole) < 1e-5


def test_two_ranks_then_one_then_two(tiny_store, tmp_path):
    whole = pretrain(tmp_path / "whole", tiny_store, *NO_DROPOUT)
    cut, settings = tmp_path / "cut", [*NO_DROPOUT, "checkpoint.keep=3"]
    for ranks, stage, lost in ((2, 1, (8, 12)), (1, 3, (12,)), (2, 1, ())):
        entries = pretrain(cut, tiny_store, *settings, *at_stage(stage), ranks=ranks)
        assert identities(entries) == identities(whole)
        assert worst_difference(entries, whole) < 1e-5
        for step in lost:
            shutil.rmtree(cut / "checkpoints" / f"step-{step:08d}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed=1", "seed: 9595 -> 1"),
        ("optimizer.learning_rate=0.5", "optimizer.learning_rate: 0.0003 -> 0.5"),
        ("model.num_heads=4", "model.num_heads: 2 -> 4"),
    ],
)
def test_other_settings_are_refused_before_training(tiny_store, tmp_path, change, message):
    pretrain(tmp_path, tiny_store, "train.max_steps=4")
    with pytest.raises(CheckpointError) as refused:
        pretrain(tmp_path, tiny_store, "train.max_steps=4", change)
    assert message in str(refused.value)
