"""Settings that buy memory or time, and change no number."""

import pytest

from runs import NO_DROPOUT, at_stage, identities, pretrain, worst_difference

pytestmark = pytest.mark.distributed
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(tiny_store, tmp_path_factory):
    """One rank, ZeRO-1, nothing recomputed, nothing compiled."""
    return pretrain(tmp_path_factory.mktemp("reference"), tiny_store, *NO_DROPOUT)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_activation_checkpointing(reference, tiny_store, tmp_path, stage):
    settings = ["train.activation_checkpointing=true", *at_stage(stage)]
    entries = pretrain(tmp_path, tiny_store, *NO_DROPOUT, *settings)
    assert identities(entries) == identities(reference)
    assert worst_difference(entries, reference) < 1e-5


def test_activation_checkpointing_repeats_dropout(tiny_store, tmp_path):
    plain = pretrain(tmp_path / "plain", tiny_store, "model.hidden_dropout=0.1")
    spared = pretrain(
        tmp_path / "spared",
        tiny_store,
        "model.hidden_dropout=0.1",
        "train.activation_checkpointing=true",
    )
    assert worst_difference(spared, plain) < 1e-5


@pytest.mark.timeout(600)
@SLOW
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_compiled(reference, tiny_store, tmp_path, stage):
    """Rounded shapes too, since they are what compiled code wants.

    In a process of its own: torch.compile does not look through the checks of shapes in tests.
    """
    settings = ["train.compile=true", "train.shape_multiple=64", *at_stage(stage)]
    entries = pretrain(tmp_path, tiny_store, *NO_DROPOUT, *settings, apart=True, timeout=550)
    assert identities(entries) == identities(reference)
    assert worst_difference(entries, reference) < 1e-5
