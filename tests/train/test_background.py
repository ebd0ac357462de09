"""Checkpoints are written behind the training: what may go on, what must wait, what goes wrong."""

import threading

import pytest
import torch

from lxmert_dist.config import CheckpointConfig
from lxmert_dist.errors import CheckpointError, ConfigError
from lxmert_dist.train.checkpoint import find
from lxmert_dist.train.snapshot import Fragment, Snapshot
from lxmert_dist.train.world import World
from lxmert_dist.train.writer import Writer
from ranks import started
from runs import NO_DROPOUT, SMALL, ledger, pretrain

SHAPES = {"a": torch.Size((2, 3)), "frozen": torch.Size((4,)), "b": torch.Size(())}


def fragments(value: float):
    """Those of a single rank, out of the order of the shapes."""
    whole = {name: torch.full((shape.numel(),), value) for name, shape in SHAPES.items()}
    moments = {name: tensor + 1 for name, tensor in whole.items() if name != "frozen"}
    return {
        "weights": [Fragment(name, 0, whole[name]) for name in ("b", "a", "frozen")],
        "exp_avg": [Fragment(name, 0, moments[name]) for name in ("b", "a")],
    }


def writer(*, background: bool = True) -> Writer:
    return Writer(Snapshot(SHAPES, World(), timeout_seconds=5), World(), background=background)


@pytest.mark.parametrize("background", [True, False])
def test_the_whole_state_is_what_it_was_at_the_start(background):
    seen = []
    ours = writer(background=background)
    for value in (1.0, 5.0):  # the same buffers twice
        given = fragments(value)
        ours.start(
            "here",
            given,
            lambda parts: seen.append(
                {p: {n: t.clone() for n, t in named.items()} for p, named in parts.items()}
            ),
        )
        ours.before_update()
        for part in given.values():
            for fragment in part:
                fragment.tensor.fill_(-1.0)  # the update
        ours.finish()
        figures = ours.news()
        assert figures.keys() == {"write_seconds", "stall_seconds", "wait_seconds"}
        assert figures["stall_seconds"] >= figures["wait_seconds"] >= 0
        whole = seen.pop()
        assert {n: t.shape for n, t in whole["weights"].items()} == SHAPES
        assert list(whole["exp_avg"]) == ["a", "b"]
        assert all((t == value).all() for t in whole["weights"].values())
        assert all((t == value + 1).all() for t in whole["exp_avg"].values())
    ours.finish()
    assert ours.news() == {}


def test_training_goes_on_while_a_checkpoint_is_written():
    gate = threading.Event()
    ours = writer()
    ours.start("here", fragments(1.0), lambda parts: gate.wait(30))
    ours.before_update()  # does not wait for the gate
    gate.set()
    ours.finish()


def test_an_update_waits_for_the_copy(monkeypatch):
    copying, gate = threading.Event(), threading.Event()
    original = Snapshot.copy

    def slow(self, *arguments):
        copying.set()
        assert gate.wait(30)
        original(self, *arguments)

    monkeypatch.setattr(Snapshot, "copy", slow)
    ours = writer()
    ours.start("here", fragments(1.0), lambda parts: None)
    assert copying.wait(30)
    updated = threading.Event()
    update = threading.Thread(target=lambda: (ours.before_update(), updated.set()))
    update.start()
    assert not updated.wait(0.1)
    gate.set()
    assert updated.wait(30)
    update.join()
    ours.finish()


def test_an_error_behind_the_training_names_the_place():
    def fail(parts):
        raise OSError(28, "No space left on device")

    ours = writer()
    ours.start("s3://bucket/step-00000004", fragments(1.0), fail)
    ours.before_update()
    with pytest.raises(CheckpointError, match=r"step-00000004: .*No space left on device"):
        ours.finish()
    ours.start("here", fragments(1.0), lambda parts: None)  # the next is not blamed
    ours.finish()


@pytest.mark.distributed
def test_an_error_of_rank_0_reaches_all_ranks(tiny_store, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "checkpoints").write_text("a file where a directory should be")
    chosen = [*SMALL, f"directory={tmp_path}", f"data.store={tiny_store}"]
    chosen.append(f"checkpoint.uri={tmp_path}/full/checkpoints")
    with started(chosen, 2) as running:
        assert running.wait() == [1, 1], running.output
        output = running.output
    place = f"cannot write the checkpoint {tmp_path}/full/checkpoints/step-00000004"
    assert output.count(f"error: {place}") == 2
    assert output.count(f"[rank 1] error: {place}") == 1
    assert 4 <= len(ledger(tmp_path)) <= 8  # the next checkpoint tells


@pytest.mark.distributed
def test_ranks_fall_back_together_when_the_newest_is_damaged(tiny_store, tmp_path):
    cut = tmp_path / "cut"
    whole = pretrain(tmp_path / "whole", tiny_store, ranks=2)
    assert pretrain(cut, tiny_store, ranks=2) == whole
    file = cut / "checkpoints" / "step-00000012" / "exp_avg.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"oops")
    chosen = [*SMALL, f"directory={cut}", f"data.store={tiny_store}"]
    with started(chosen, 2) as running:
        assert running.wait() == [0, 0], running.output
        assert "step-00000012/exp_avg.safetensors is damaged" in running.output
        assert "resumed from step 8" in running.output
    assert ledger(cut) == whole
    assert find(str(cut)).tensors("exp_avg")  # written anew
    for checkpoint in (cut / "checkpoints").iterdir():
        (checkpoint / "state.json").unlink()
    with pytest.raises(CheckpointError, match="no good checkpoint is left"):
        pretrain(cut, tiny_store)


def test_the_best_by_a_metric_stays(tiny_store, tmp_path):
    settings = ["train.validate_every=2", "checkpoint.every=2", "checkpoint.keep=1"]
    settings += ["checkpoint.best=valid/masked_lm", "checkpoint.best_is=highest"]
    pretrain(tmp_path, tiny_store, *settings, *NO_DROPOUT)
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    # an untrained model is the worst, of those that have a checkpoint the first
    assert kept == ["step-00000002", "step-00000012"]
    assert find(str(tmp_path)).state().metrics["valid/loss"] > 0
    with pytest.raises(
        ConfigError, match=r"no metric of the validation; choose one of .*valid/loss"
    ):
        pretrain(tmp_path / "other", tiny_store, "checkpoint.best=valid/losss")


def test_settings_of_a_checkpoint_do_not_change_what_is_trained(tiny_store, tmp_path):
    one = pretrain(tmp_path / "one", tiny_store, "train.max_steps=6")
    assert CheckpointConfig().background
    other = ["checkpoint.background=false", "checkpoint.every=1", "checkpoint.keep_every=3"]
    assert pretrain(tmp_path / "other", tiny_store, "train.max_steps=6", *other) == one
    kept = sorted(p.name for p in (tmp_path / "other" / "checkpoints").iterdir())
    assert kept == ["step-00000003", "step-00000005", "step-00000006"]
