"""Settings: strict types, the nearest right key, round trips; every shipped file parses."""

from pathlib import Path

import pytest

from lxmert_dist.config import (
    FinetuneConfig,
    PretrainConfig,
    deepspeed_config,
    dump_toml,
    load_config,
)
from lxmert_dist.errors import ConfigError

ROOT = Path(__file__).parents[2]
MINIMAL = ["name=x", "directory=runs/x", "data.store=data/x"]


def load(*overrides: str) -> PretrainConfig:
    return load_config(PretrainConfig, None, [*MINIMAL, *overrides])


@pytest.mark.parametrize(
    ("kind", "file"),
    [(PretrainConfig, f) for f in sorted(ROOT.glob("configs/pretrain/*.toml"))]
    + [(FinetuneConfig, f) for f in sorted(ROOT.glob("configs/finetune/*.toml"))],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_shipped_files_parse_and_survive_a_round_trip(kind, file, tmp_path):
    config = load_config(kind, file)
    again = tmp_path / "again.toml"
    again.write_text(dump_toml(config))
    assert load_config(kind, again) == config


@pytest.mark.parametrize("name", ['a "b" \\ c', "\U0001f600", "a\x7fb", "tab\tnew\nline", "ü"])
def test_any_text_survives_a_round_trip(name, tmp_path):
    config = load().model_copy(update={"name": name})
    again = tmp_path / "again.toml"
    again.write_text(dump_toml(config), "utf-8")
    assert load_config(PretrainConfig, again) == config


def test_overrides_are_typed():
    config = load(
        "train.global_batch_size=64",
        "optimizer.learning_rate=1",
        'data.sources=["a", "b"]',
        "name=7 up",
    )
    assert config.train.global_batch_size == 64
    assert config.optimizer.learning_rate == 1.0
    assert config.data.sources == ("a", "b")
    assert config.name == "7 up"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.gobal_batch_size=64", "did you mean train.global_batch_size?"),
        ("global_batch_size=64", "did you mean train.global_batch_size?"),
        ("trian.epochs=3", "did you mean train.epochs?"),
        ("zzz=3", "see --print-config"),
        ("train.epochs=many", "train.epochs: input should be a valid integer, got 'many'"),
        ("train.epochs=1.5", "train.epochs"),
        ("train.zero_stage=4", "train.zero_stage: input should be less than or equal to 3, got 4"),
        ("train.precision=fp8", "'fp32', 'bf16' or 'fp16'"),
        ("objectives.mismatch_rate=1.5", "objectives.mismatch_rate"),
        ("objectives.token_random_fraction=0.3", "token_replace_fraction + token_random_fraction"),
        ("objectives.object_replace_fraction=1", "object_replace_fraction + object_random_fract"),
        ("objectives.image_qa_stages=[[5, 0.0], [5, 1.0]]", "must ascend, and are [5, 5]"),
        ("objectives.image_qa_stages=[[0.5, 1.0]]", "image_qa_stages.0.0: input should be a valid"),
        ("objectives.image_qa_stages=[[0, -1.0]]", "image_qa_stages.0.1: input should be greater"),
        ("objectives.image_qa_stages=3", "image_qa_stages: input should be a valid array, got 3"),
        (
            "data.source_weights={vqa = 0}",
            "data.source_weights.vqa: input should be greater than 0",
        ),
        (
            "data.source_weights.vqa=1.5",
            "data.source_weights.vqa: input should be less than or equ",
        ),
        ("data.source_weights=0.5", "data.source_weights: input should be an object, got 0.5"),
        ("data.curriculum=[[0, {vqa = -1}]]", "data.curriculum.0.1.vqa: input should be greater"),
        ("data.curriculum=[[5, {}]]", "curriculum must ascend from 0, and are [5]"),
        ("data.curriculum=[[0, {}], [9, {}], [9, {}]]", "ascend from 0, and are [0, 9, 9]"),
        ("data.curriculum=[[0, {}]]", "data.curriculum needs train.max_steps"),
        ("train.epochs", "KEY=VALUE"),
        ("train.epochs=3\nx=4", "train.epochs: input should be a valid integer"),
        ('train.epochs="3"', "train.epochs: input should be a valid integer, got '3'"),
        ("train.epochs=true", "train.epochs: input should be a valid integer, got True"),
        ("optimizer.learning_rate=inf", "optimizer.learning_rate: input should be a finite number"),
        ("name.first=x", "name is not a section"),
        ("train=3", "train"),
        ("data.lanes=7", "data.lanes=7 must divide train.global_batch_size=256"),
        ("cluster.timeout_seconds=60", "must be more than data.patience_s=60"),
        ("model.num_heads=5", "num_heads=5 must divide hidden_size=768"),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(ConfigError) as caught:
        load(override)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_stage_lays_its_weights_over_those_of_the_sources(tmp_path):
    curriculum = "data.curriculum=[[0, {vg = 0.2, 'visual 7w' = 0.0}], [20000, {}]]"
    config = load(curriculum, "train.max_steps=30000", "data.source_weights={vqa = 0.5, vg = 1}")
    assert config.data.stages == (
        (0, {"vqa": 0.5, "vg": 0.2, "visual 7w": 0.0}),
        (20000, {"vqa": 0.5, "vg": 1.0}),
    )
    assert load().data.stages == ((0, {}),)
    again = tmp_path / "again.toml"
    again.write_text(dump_toml(config))
    assert load_config(PretrainConfig, again) == config


def test_a_missing_setting_or_file_and_broken_toml_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"data"):
        load_config(PretrainConfig, None, ["name=x", "directory=y"])
    with pytest.raises(ConfigError, match=r"no configuration file .*nowhere\.toml"):
        load_config(PretrainConfig, tmp_path / "nowhere.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = \n")
    with pytest.raises(ConfigError, match=r"broken\.toml is not TOML \(.*line 1"):
        load_config(PretrainConfig, broken)


def test_a_run_that_is_not_told_where_gets_a_directory_of_its_own():
    for init in ("scratch", "runs/y"):
        settings = ["name=x", "data.store=y", f"init={init}"]
        assert load_config(PretrainConfig, None, settings).directory == "runs/x"
    for init, directory in (("scratch", "runs/x_scratch"), ("runs/y", "runs/x")):
        settings = ["name=x", "data.store=y", f"init={init}"]
        assert load_config(FinetuneConfig, None, settings).directory == directory


def test_the_fingerprint_follows_what_is_trained_only():
    plain = load().fingerprint()
    for same in (
        "name=y",
        "directory=z",
        "data.store=s3://b/x",
        "train.zero_stage=3",
        "train.micro_batch_size=64",
        "train.activation_checkpointing=true",
        "train.compile=true",
        "train.shape_multiple=64",
    ):
        assert load(same).fingerprint() == plain
    for other in (
        "seed=1",
        "init=runs/y",
        "train.epochs=3",
        "objectives.mismatch_rate=0.4",
        "objectives.image_qa_stages=[[0, 0.0]]",
        "data.lanes=4",
        "data.pairs_per_image=2",
        "data.source_weights.vqa=0.5",
    ):
        assert load(other).fingerprint() != plain


def test_the_fingerprint_follows_the_curriculum():
    one, other = (
        load("train.max_steps=9", f"data.curriculum=[[0, {{vqa = {weight}}}]]").fingerprint()
        for weight in (0.5, 0.0)
    )
    assert len({one, other, load("train.max_steps=9").fingerprint()}) == 3


def test_the_micro_batch_changes_what_is_trained_where_it_is_a_replica():
    replicas = "objectives.loss_norm=per_replica"
    assert load(replicas).fingerprint() != load(replicas, "train.micro_batch_size=64").fingerprint()


def test_deepspeed_is_told_what_the_settings_say():
    told = deepspeed_config(
        load("train.micro_batch_size=16", "train.precision=bf16", "train.zero_stage=2"),
        world_size=4,
    )
    assert told["train_micro_batch_size_per_gpu"] == 16
    assert told["gradient_accumulation_steps"] == 4
    assert told["zero_optimization"]["stage"] == 2
    assert told["bf16"] == {"enabled": True}
    assert told["gradient_clipping"] == 1.0


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match=r"3 ranks do not divide data\.lanes=8"):
        deepspeed_config(load(), world_size=3)
    with pytest.raises(ConfigError, match=r"micro_batch_size=48 does not divide the 128 pairs"):
        deepspeed_config(load("train.micro_batch_size=48"), world_size=2)
