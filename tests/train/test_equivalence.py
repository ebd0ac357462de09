"""The same run over ranks, accumulation, ZeRO stages and precisions, by the real launchers."""

import pytest

from runs import NO_DROPOUT, identities, pretrain, worst_difference

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def reference(tiny_store, tmp_path_factory):
    """One rank, one micro-batch a step, ZeRO-1, fp32, no dropout."""
    return pretrain(tmp_path_factory.mktemp("reference"), tiny_store, *NO_DROPOUT)


@pytest.mark.parametrize(
    ("ranks", "settings"),
    [
        (1, ["train.zero_stage=0"]),
        (1, ["train.zero_stage=2", "train.micro_batch_size=8"]),
        (1, ["train.zero_stage=3"]),
        (2, ["train.micro_batch_size=16"]),
        (2, ["train.micro_batch_size=8", "train.zero_stage=3"]),
    ],
)
def test_losses_and_pairs_do_not_depend_on_ranks_accumulation_or_stage(
    reference, tiny_store, tmp_path, ranks, settings
):
    entries = pretrain(tmp_path, tiny_store, *NO_DROPOUT, *settings, ranks=ranks)
    assert len(entries) == 12
    assert identities(entries) == identities(reference)
    assert worst_difference(entries, reference) < 1e-5


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_trains_near_fp32(reference, tiny_store, tmp_path, stage):
    settings = ["train.precision=bf16", f"train.zero_stage={stage}"]
    entries = pretrain(tmp_path, tiny_store, *NO_DROPOUT, *settings)
    assert identities(entries) == identities(reference)
    # bf16 keeps 8 bits of a number: single losses of a batch move by up to a few percent.
    assert 0 < worst_difference(entries, reference) < 0.05


@pytest.fixture(scope="module")
def grouped(tiny_store, tmp_path_factory):
    """The reference with up to four pairs an image."""
    directory = tmp_path_factory.mktemp("grouped")
    return pretrain(directory, tiny_store, *NO_DROPOUT, "data.pairs_per_image=4")


@pytest.mark.parametrize(
    ("ranks", "settings"),
    [
        (1, ["train.micro_batch_size=2"]),  # cuts every full group
        (2, ["train.micro_batch_size=8", "train.zero_stage=3"]),
    ],
)
def test_grouped_runs_do_not_depend_on_ranks_accumulation_or_stage(
    grouped, reference, tiny_store, tmp_path, ranks, settings
):
    settings = ["data.pairs_per_image=4", *settings]
    entries = pretrain(tmp_path, tiny_store, *NO_DROPOUT, *settings, ranks=ranks)
    assert not set(identities(grouped)) & set(identities(reference))
    assert identities(entries) == identities(grouped)
    assert worst_difference(entries, grouped) < 1e-5  # measured 2.1e-7
