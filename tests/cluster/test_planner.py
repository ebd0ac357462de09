"""The planner: cases by hand, what must grow with what, errors, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lxmert_dist.cli import planner as command
from lxmert_dist.cluster.amounts import Amounts, of_store, published
from lxmert_dist.cluster.hardware import GPUS, Cluster
from lxmert_dist.cluster.planner import Prediction, exposed_seconds, predict
from lxmert_dist.cluster.scaling import Collective, collectives, held_bytes, update_bytes
from lxmert_dist.config import PretrainConfig, TrainConfig, load_config
from lxmert_dist.errors import ConfigError, StoreError
from lxmert_dist.store import open_store
from runs import ROOT

RECIPE = ROOT / "configs/pretrain/lxmert.toml"
H100 = GPUS["h100"]
ONE_BUCKET = {"reduce_bucket_size": 1000, "allgather_bucket_size": 1000}


@pytest.fixture(scope="module")
def few() -> Amounts:
    """As the published data, but 1,600 images."""
    return published(1600)


def config_of(*chosen: str) -> PretrainConfig:
    return load_config(PretrainConfig, RECIPE, chosen)


def cluster_of(gpus: int, **changes) -> Cluster:
    return replace(Cluster(H100, gpus, 8, 3200.0, 10.0), **changes)


def one(amounts: Amounts, gpus: int, *chosen: str, mfu: float = 0.35, **changes) -> Prediction:
    return predict(config_of(*chosen), cluster_of(gpus, **changes), amounts, [mfu])[0]


# ---- by hand


def test_bytes_around_a_ring_of_four() -> None:
    assert Collective("all_reduce", 400, 1).sent_bytes(4) == 2 * 3 * 100
    assert Collective("all_gather", 400, 1).sent_bytes(4) == 300
    assert Collective("reduce_scatter", 400, 2).sent_bytes(4) == 300
    assert Collective("all_reduce", 400, 2).rounds(4) == 2 * 2 * 3


@pytest.mark.parametrize(
    ("stage", "precision", "micro_batches", "expected"),
    [
        (0, "fp32", 2, [("all_reduce", 400, 1)]),
        (1, "bf16", 2, [("all_reduce", 200, 1), ("all_gather", 200, 1)]),
        (2, "bf16", 3, [("all_reduce", 600, 3), ("all_gather", 200, 1)]),
        (3, "bf16", 2, [("all_gather", 400, 2), ("reduce_scatter", 400, 2)]),
    ],
)
def test_what_a_stage_sends(stage, precision, micro_batches, expected) -> None:
    train = TrainConfig(zero_stage=stage, precision=precision, **ONE_BUCKET)
    sends = collectives(train, 100, 4, micro_batches=micro_batches)
    assert [(s.kind, s.num_bytes, s.calls) for s in sends] == expected
    assert collectives(train, 100, 1, micro_batches=micro_batches) == []


@pytest.mark.parametrize(
    ("stage", "precision", "ranks", "weights", "gradients", "optimizer"),
    [
        (0, "fp32", 1, 400, 400, 800),
        (1, "fp32", 1, 400, 400, 800),  # a single rank runs at stage 0
        (0, "bf16", 4, 200, 200, 1200),
        (1, "bf16", 4, 200, 200, 300),
        (2, "bf16", 4, 200, 50, 300),
        (3, "bf16", 4, 200, 50, 300),
        (1, "fp32", 4, 400, 400, 300),
    ],
)
def test_what_a_gpu_holds(stage, precision, ranks, weights, gradients, optimizer) -> None:
    train = TrainConfig(zero_stage=stage, precision=precision, **ONE_BUCKET)
    held = held_bytes(train, 100, ranks)
    assert (held["weights"], held["gradients"], held["optimizer"]) == (
        weights,
        gradients,
        optimizer,
    )


def test_an_update_is_shared_from_stage_1_on() -> None:
    # Norm 4, gradient 4, three fp32 tensors read and written 24; bf16: read 2, write 4, write 2.
    bf16 = [update_bytes(TrainConfig(zero_stage=s, precision="bf16"), 100, 4) for s in (0, 1)]
    assert bf16 == [4000, 1000]
    assert update_bytes(TrainConfig(zero_stage=0, precision="fp32"), 100, 4) == 3200


def test_communication_hides_all_but_the_last_bucket() -> None:
    sends = [Collective("all_reduce", 4e9, 1)]
    cluster = cluster_of(8)
    seconds = 2 * 7 / 8 * 4e9 / (0.8 * 450e9) + 2 * 7 * 5e-6

    def waited(params: int, compute: float, overlap: str) -> float:
        train = TrainConfig(overlap_communication=overlap, reduce_bucket_size=500)
        return exposed_seconds(sends, cluster, train, params, compute)

    assert waited(1000, 9.0, "auto") == pytest.approx(seconds)
    assert waited(1000, 9.0, "on") == pytest.approx(seconds / 2)
    assert waited(500, 9.0, "on") == pytest.approx(seconds)
    assert waited(1000, 0.003, "on") == pytest.approx(seconds - 0.002)


def test_published_amounts_are_those_of_the_papers_table() -> None:
    amounts = published(18_000)
    assert len(amounts.index) == sum(amounts.by_source.values())
    # 9.18M pairs of 180K images, less the validation images
    assert len(amounts.index) == pytest.approx(9.18e6 / 10 * 175 / 180, rel=0.02)
    assert amounts.shard_bytes.sum() == 17_500 * 36 * 2048 * 2
    assert 8 < amounts.text.mean_pieces < 9
    assert 0.25 < amounts.text.answered_share < 0.35


# ---- whole predictions


def test_parts_make_a_step(few) -> None:
    found = one(few, 8)
    parts = found.parts
    assert found.micro_batch == 32
    assert found.flops == pytest.approx(256 * 25.5e9, rel=0.05)
    assert parts["compute"] == pytest.approx(found.flops / 8 / (0.35 * 989e12))
    busy = max(parts["compute"] + parts["update"], parts["host"]) + parts["communication"]
    behind = max(parts["storage"], parts["collation"], parts["checkpoint"])
    assert found.step_seconds == max(busy, behind)
    assert found.pairs_per_second == 256 / found.step_seconds
    assert found.gpu_hours == 8 * found.hours
    assert found.binds[0][1] == max(parts.values())


def test_what_grows_with_what(few) -> None:
    base = one(few, 8)
    assert one(few, 8, mfu=0.25).parts["compute"] > base.parts["compute"]
    assert one(few, 8, storage_gbps=1.0).parts["storage"] == pytest.approx(
        10 * base.parts["storage"]
    )
    assert one(few, 16, network_gbps=100.0).parts["communication"] > base.parts["communication"]
    assert one(few, 16).traffic.opening_bytes == 2 * base.traffic.opening_bytes
    checkpointed = one(few, 8, "train.activation_checkpointing=true")
    assert checkpointed.parts["compute"] > base.parts["compute"]
    assert checkpointed.memory["activations"] < base.memory["activations"]
    held = [one(few, 8, f"train.zero_stage={s}").held_bytes for s in (0, 1, 2)]
    assert held == sorted(held, reverse=True)


def test_a_slow_storage_binds(few) -> None:
    found = one(few, 8, storage_gbps=0.001)
    behind = {name: found.parts[name] for name in ("storage", "checkpoint")}
    assert found.binds[0][0] in behind
    assert found.step_seconds == max(behind.values())


def test_traffic_of_a_run(few) -> None:
    found = one(few, 8, "train.epochs=3", "checkpoint.every=50").traffic
    cached = one(few, 8, "train.epochs=3", gpus_per_node=4).traffic
    stored = few.shard_bytes.sum()
    assert found.feature_bytes == pytest.approx(3 * found.read_ratio * stored)
    assert found.cached_bytes == stored  # one node fetches everything once
    assert cached.cached_bytes == pytest.approx(2 * (1 - 0.5**3) * stored)
    assert found.checkpoints == -(-found.steps // 50)
    assert found.checkpoint_bytes == 12 * 228_051_752
    half = one(few, 8, "train.epochs=3", "data.source_weights={vg = 0.5}").traffic
    assert half.steps < found.steps


def test_few_pairs_a_gpu_are_said(few) -> None:
    busy = one(few, 8, "train.global_batch_size=4096", "train.micro_batch_size=512")
    assert not list(busy.notes)
    (note,) = one(few, 64).notes
    assert "a GPU has 4 of the 256 pairs" in note
    assert "train.global_batch_size=" in note


# ---- errors


@pytest.mark.parametrize(
    ("gpus", "chosen", "names"),
    [
        (48, (), "data.lanes=64"),
        (256, (), "data.lanes=64"),
        (8, ("train.micro_batch_size=24",), "train.micro_batch_size=24"),
        (1, ("train.global_batch_size=65536", "train.micro_batch_size=65536"), "about"),
    ],
)
def test_what_cannot_run_is_refused(few, gpus, chosen, names) -> None:
    with pytest.raises(ConfigError, match=names):
        one(few, gpus, *chosen)


# ---- the command


@pytest.fixture
def say(capsys, monkeypatch, few):
    """Runs the command on few images; returns its exit code, its output and its error."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("lxmert_dist.cluster.amounts.published", lambda: few)

    def say(*line: str) -> tuple[int, str, str]:
        code = command.main(line)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return say


def test_it_prints_what_it_computes(say, few) -> None:
    code, said, _ = say("--gpus", "64", "--storage-gbps", "10", "--price-per-gpu-hour", "2")
    found = one(few, 64)
    assert code == 0
    lines = {line.split()[0]: line for line in said.splitlines() if line[0] != " "}
    assert list(lines) == [
        *("run", "data", "step", "speed", "time", "memory", "sends", "reads", "writes", "note"),
        "assumed",
    ]
    assert f"{found.pairs_per_second:,.0f} pairs/s" in lines["speed"]
    assert f"{found.hours:.2f} h" in lines["time"]
    assert f"{2 * found.gpu_hours:,.0f} at 2 a GPU-hour" in lines["time"]
    assert "64 h100 in 8 node(s), ZeRO-1, bf16; 256 pairs a step, 4 a GPU" in lines["run"]


def test_json_says_the_same(say, few) -> None:
    code, said, _ = say("--gpus", "8", "--json", "--set", "train.zero_stage=2")
    found = one(few, 8, "train.zero_stage=2")
    tree = json.loads(said)
    assert code == 0
    assert tree["step_seconds"] == found.step_seconds
    assert tree["hours"] == found.hours
    assert tree["zero_stage"] == 2
    assert tree["hours_range"][0] <= tree["hours"] <= tree["hours_range"][1]
    assert [send["kind"] for send in tree["collectives"]] == ["all_reduce", "all_gather"]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        (("--gpus", "0"), "--gpus"),
        (("--gpus-per-node", "0"), "--gpus-per-node"),
        (("--storage-gbps", "0"), "--storage-gbps"),
        (("--storage-gbps", "inf"), "--storage-gbps"),
        (("--network-gbps", "-1"), "--network-gbps"),
        (("--mfu", "35"), "--mfu"),
        (("--price-per-gpu-hour", "nan"), "--price-per-gpu-hour"),
        (("--gpus", "128"), "data.lanes"),
        (("--config", "nowhere.toml"), "nowhere.toml"),
        (("--set", "train.zero=1"), "train.zero"),
    ],
)
def test_bad_input_is_named(say, line, names) -> None:
    code, said, complaint = say(*line)
    assert code == 2
    assert names in complaint
    assert said == ""


def test_amounts_of_a_store(tiny_store) -> None:
    config = config_of(f"data.store={tiny_store}", "data.lanes=4")
    amounts = of_store(config)
    split = open_store(tiny_store).split("train")
    assert len(amounts.index) == split.num_pairs
    assert amounts.spec.feature_dim == split.feature_dim
    assert len(amounts.shard_bytes) == split.num_shards
    assert 2 < amounts.text.mean_pieces <= 20
    assert predict(config, cluster_of(4), amounts, [0.35])[0].pairs_per_second > 0
    with pytest.raises(StoreError, match="no feature store"):
        of_store(config_of(f"data.store={Path(tiny_store) / 'none'}"))
