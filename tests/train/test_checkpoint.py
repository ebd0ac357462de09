"""Checkpoints are complete or absent, checked when they are read, and only some of them stay."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lxmert_dist.errors import CheckpointError, DamagedCheckpointError
from lxmert_dist.store import uri as uris
from lxmert_dist.train.checkpoint import Checkpoints, find
from lxmert_dist.train.retention import Retention
from lxmert_dist.train.state import TrainState
from lxmert_dist.train.tensor_file import write_tensors


def state(step: int, **metrics: float) -> TrainState:
    return TrainState(
        step=step,
        epoch=0,
        epoch_step=step,
        plan_version=1,
        store_digest="d",
        fingerprint="f",
        config={"seed": 1},
        data_spec={},
        tokenizer_digest="t",
        answers=["no"],
        object_classes=[],
        attribute_classes=[],
        metrics=metrics,
    )


def parts(value: float):
    return {"weights": {"a": torch.full((3,), float(value)), "b.c": torch.eye(2)}}


def steps(place: str) -> list[int]:
    return [int(name.removeprefix("step-")) for name in uris.list_dir(place)]


@pytest.fixture(params=["disk", "memory"])
def place(request, tmp_path):
    return str(tmp_path / "ck") if request.param == "disk" else f"memory://{tmp_path.name}/ck"


def test_what_is_saved_comes_back(place, tmp_path):
    kept = Checkpoints(place)
    assert kept.latest() is None
    kept.save(state(4), parts(0.1))
    found = kept.latest()
    for _ in range(2):  # as it is read, and from the files that were verified
        assert found.state() == state(4)
        tensors = found.tensors("weights")
        assert torch.equal(tensors["a"], torch.full((3,), 0.1))
        assert torch.equal(tensors["b.c"], torch.eye(2))
        found.verify(tmp_path)


def test_files_are_what_the_library_reads(tmp_path):
    tensors = {
        "b": torch.randn(3, 5),
        "a": torch.tensor(2.5),
        "é": torch.empty(0, 4),
        "c": torch.arange(7.0),
    }
    file = tmp_path / "x.safetensors"
    size, sha256 = write_tensors(file, tensors)
    assert (size, sha256) == (file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())
    found = load_file(file)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)


def test_only_the_newest_are_kept(place):
    kept = Checkpoints(place)
    for step in (4, 8, 12):
        kept.save(state(step), parts(step))
    assert kept.latest().state().step == 12
    assert steps(place) == [8, 12]


def test_some_are_kept_for_good_and_so_is_the_best(place):
    retention = Retention(keep=1, keep_every=10, best="valid/loss")
    losses = {5: 3.0, 10: 2.0, 15: 1.0, 20: float("nan"), 25: 1.5, 30: 1.0}
    for step, loss in losses.items():
        # a new one each time, as after a restart
        Checkpoints(place, retention).save(state(step, **{"valid/loss": loss}), parts(step))
    assert steps(place) == [10, 15, 20, 30]
    Checkpoints(place, retention).save(state(33), parts(33))  # not validated
    assert steps(place) == [10, 15, 20, 30, 33]


def test_the_best_may_be_the_highest():
    accuracies = {step: {"a": value} for step, value in {1: 0.5, 2: 0.9, 3: 0.7}.items()}
    assert Retention(best="a", highest=True).best_step(accuracies) == 2
    assert Retention(best="a").best_step(accuracies) == 1
    assert Retention(best="b").best_step(accuracies) is None
    assert Retention(keep=1, best="a", highest=True).kept([1, 2, 3], accuracies) == {2, 3}


def test_a_save_that_breaks_off_leaves_the_one_before(place):
    kept = Checkpoints(place)
    kept.save(state(4), parts(1.0))
    broken = {"weights": {"a": torch.zeros(2)}, "exp_avg": {"a": "no tensor"}}
    with pytest.raises(AttributeError):
        kept.save(state(8), broken)
    assert kept.latest().state().step == 4
    assert steps(place) == [4]
    kept.save(state(8), parts(2.0))
    assert kept.latest().state().step == 8


def test_a_future_that_was_given_up_goes(place):
    kept = Checkpoints(place, Retention(keep=3))
    for step in (4, 8, 12):
        kept.save(state(step), parts(step))
    kept.save(state(6), parts(6))
    assert steps(place) == [4, 6]


def damage(folder: Path, how: str) -> str:
    """Returns what errors say of it."""
    weights, manifest = folder / "weights.safetensors", folder / "manifest.json"
    match how:
        case "flip":
            weights.write_bytes(weights.read_bytes()[:-1] + b"x")
            return r"weights\.safetensors is damaged"
        case "remove":
            weights.unlink()
            return r"weights\.safetensors is missing"
        case "manifest":
            manifest.write_text("{")
            return r"manifest\.json is damaged"
        case _:
            files = json.loads(manifest.read_text())["files"]
            manifest.write_text(json.dumps({"files": {"../../x": files["state.json"]}}))
            return r"manifest\.json is damaged"


@pytest.mark.parametrize("how", ["flip", "remove", "manifest", "elsewhere"])
def test_a_damaged_one_is_warned_of_and_the_one_before_is_read(tmp_path, capsys, how):
    kept = Checkpoints(str(tmp_path / "ck"))
    for step in (4, 8):
        kept.save(state(step), parts(step))
    problem = damage(tmp_path / "ck" / "step-00000008", how)

    def read(checkpoint):
        checkpoint.verify(tmp_path)
        return checkpoint.state().step

    assert kept.first_good(read) == 4
    warned = capsys.readouterr().err
    assert "warning: " in warned
    assert "step-00000008" in warned
    assert "Going back to" in warned
    damage(tmp_path / "ck" / "step-00000004", "flip")
    with pytest.raises(CheckpointError, match="no good checkpoint is left") as error:
        kept.first_good(read)
    error.match(problem)
    # One that is named is the one that is meant.
    if how == "flip":
        with pytest.raises(DamagedCheckpointError, match=problem):
            find(str(tmp_path / "ck" / "step-00000008")).tensors("weights")


def test_one_that_is_deleted_while_it_is_read_gives_way_to_the_next(tmp_path):
    kept = Checkpoints(str(tmp_path), Retention(keep=1))
    kept.save(state(4), parts(4))

    def read(checkpoint):
        if kept.latest().state().step == 4:
            kept.save(state(8), parts(8))  # drops 4
        return checkpoint.tensors("weights")["a"][0].item()

    assert kept.first_good(read) == 8


def test_another_format_is_no_damage(tmp_path):
    kept = Checkpoints(str(tmp_path))
    kept.save(state(4), parts(4))
    kept.save(replace(state(8), format=99), parts(8))
    with pytest.raises(CheckpointError, match="format 99"):
        kept.first_good(lambda checkpoint: checkpoint.state())


def test_a_run_is_found_by_its_directory(tmp_path):
    Checkpoints(str(tmp_path / "checkpoints")).save(state(4), parts(1.0))
    assert find(str(tmp_path)).state().step == 4
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        find(str(tmp_path / "elsewhere"))
