"""Checkpoints are complete or absent, and only so many are kept."""

import pytest
import torch

from lxmert_dist.errors import CheckpointError
from lxmert_dist.train.checkpoint import Checkpoints, TrainState, find


def state(step: int) -> TrainState:
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
    )


def parts(value: float):
    return {"weights": iter([("a", torch.full((3,), value)), ("b.c", torch.eye(2))])}


@pytest.fixture(params=["disk", "memory"])
def place(request, tmp_path):
    return str(tmp_path / "ck") if request.param == "disk" else f"memory://{tmp_path.name}/ck"


def test_what_is_saved_comes_back(place):
    kept = Checkpoints(place, 2)
    assert kept.latest() is None
    kept.save(state(4), parts(0.1))
    found = kept.latest()
    assert found.state() == state(4)
    tensors = found.tensors("weights")
    assert torch.equal(tensors["a"], torch.full((3,), 0.1))
    assert torch.equal(tensors["b.c"], torch.eye(2))


def test_only_the_newest_are_kept(place):
    kept = Checkpoints(place, 2)
    for step in (4, 8, 12):
        kept.save(state(step), parts(step))
    assert kept.latest().state().step == 12
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        kept.open(f"{place}/step-00000004")
    assert kept.open(f"{place}/step-00000008").state().step == 8


def test_a_save_that_breaks_off_leaves_the_one_before(place):
    kept = Checkpoints(place, 2)
    kept.save(state(4), parts(1.0))

    def breaking():
        yield "a", torch.zeros(2)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        kept.save(state(8), {"weights": breaking()})
    assert kept.latest().state().step == 4
    kept.save(state(8), parts(2.0))
    assert kept.latest().state().step == 8


def test_damage_is_named(tmp_path):
    kept = Checkpoints(str(tmp_path), 2)
    kept.save(state(4), parts(1.0))
    folder = tmp_path / "step-00000004"
    weights = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(weights[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is damaged"):
        kept.latest().tensors("weights")
    (folder / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is missing"):
        kept.latest().tensors("weights")
    (folder / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        kept.latest()


def test_a_run_is_found_by_its_directory(tmp_path):
    Checkpoints(str(tmp_path / "checkpoints"), 2).save(state(4), parts(1.0))
    assert find(str(tmp_path)).state().step == 4
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        find(str(tmp_path / "elsewhere"))
