"""Presets give defaults and no more; what is written about them is true; shipped files build."""

import tomllib
from pathlib import Path

import pytest
import torch

from lxmert_dist.config import (
    DataConfig,
    FinetuneConfig,
    ModelConfig,
    ObjectivesConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
    deepspeed_config,
    dump_toml,
    load_config,
)
from lxmert_dist.config.presets import PRESETS
from lxmert_dist.errors import ConfigError
from lxmert_dist.tasks import AnsweringTask, PretrainingTask
from lxmert_dist.train.optimizer import build_optimizer
from sizes import PUBLISHED

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "lxmert_dist" / "model" / "README.md"
MINIMAL = ("name=x", "directory=runs/x", "data.store=data/x")
FILES = [
    *((PretrainConfig, file) for file in sorted(ROOT.glob("configs/pretrain/*.toml"))),
    *((FinetuneConfig, file) for file in sorted(ROOT.glob("configs/finetune/*.toml"))),
]


def load(*overrides: str) -> PretrainConfig:
    return load_config(PretrainConfig, None, [*MINIMAL, *overrides])


def finetune(*overrides: str) -> FinetuneConfig:
    return load_config(FinetuneConfig, None, [*MINIMAL, "init=scratch", *overrides])


def setting(config: RunConfig, key: str) -> object:
    section, name = key.split(".")
    value: object = config.model_dump(mode="json")[section][name]
    return value


def keys(preset: str) -> dict[str, object]:
    return {f"{s}.{name}": v for s, tree in PRESETS[preset].items() for name, v in tree.items()}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_what_it_says_and_nothing_else(preset: str) -> None:
    config, plain = load(f"preset={preset}"), load()
    changed = keys(preset)
    for key, value in changed.items():
        assert setting(config, key) == value
        assert setting(plain, key) != value, f"{key} is the default already"
    for section, tree in config.model_dump(mode="json").items():
        for name in tree if isinstance(tree, dict) else ():
            if f"{section}.{name}" not in changed:
                assert setting(config, f"{section}.{name}") == setting(plain, f"{section}.{name}")


@pytest.mark.parametrize("preset", PRESETS)
def test_fine_tuning_takes_the_sections_that_it_has(preset: str) -> None:
    config = finetune(f"preset={preset}")
    assert not hasattr(config, "objectives")
    for key, value in keys(preset).items():
        if not key.startswith("objectives."):
            assert setting(config, key) == value


def test_what_is_set_wins_in_a_file_on_the_command_line_and_in_python(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'name = "x"\npreset = "paper"\n[data]\nstore = "y"\n'
        '[objectives]\nfeature_loss = "smooth_l1"\n'
    )
    from_file = load_config(PretrainConfig, file, ["objectives.label_scope=all"])
    in_python = PretrainConfig(
        name="x",
        directory="runs/x",
        preset="paper",
        data=DataConfig(store="y"),
        # What was set counts, even where it is the default of the section.
        objectives=ObjectivesConfig(feature_loss="smooth_l1", label_scope="all"),
        optimizer=OptimizerConfig(),
    )
    assert from_file == in_python
    assert (in_python.objectives.feature_loss, in_python.objectives.label_scope) == (
        "smooth_l1",
        "all",
    )
    assert not in_python.objectives.weigh_labels_by_score
    assert in_python.optimizer.name == "adamw"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_dump_is_read_back_whatever_the_preset(preset: str, tmp_path: Path) -> None:
    stages = "objectives.image_qa_stages=[[0, 0.0], [335000, 2.0]]"
    again = tmp_path / "again.toml"
    for config in (
        load(f"preset={preset}", stages, "model.token_type=true"),
        finetune(f"preset={preset}", 'data.sources=["a", "b"]'),
    ):
        again.write_text(dump_toml(config))
        assert load_config(type(config), again) == config
        assert type(config).model_validate_json(config.model_dump_json()) == config


def test_a_preset_counts_in_the_fingerprint_by_its_settings() -> None:
    prints = {preset: load(f"preset={preset}").fingerprint() for preset in PRESETS}
    assert len(set(prints.values())) == len(PRESETS)
    spelt = [f"{key}={str(value).lower()}" for key, value in keys("corrected").items()]
    assert load(*spelt).fingerprint() == prints["corrected"]


@pytest.mark.parametrize("wrong", ["preset=papre", "preset=3", "preset=[]"])
def test_an_unknown_preset_is_named(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"preset: input should be 'lxmert', 'paper', "):
        load(wrong)


def test_a_section_of_the_wrong_type_is_named_under_a_preset() -> None:
    with pytest.raises(ConfigError, match="model"):
        load("preset=paper", "model=3")


def test_the_weight_of_image_qa_follows_its_stages() -> None:
    plain = ObjectivesConfig(image_qa_weight=0.5)
    assert [plain.image_qa_weight_at(step) for step in (0, 10**6)] == [0.5, 0.5]
    staged = load("objectives.image_qa_stages=[[10, 0.0], [20, 2]]").objectives
    assert [staged.image_qa_weight_at(step) for step in (0, 9, 10, 19, 20, 10**6)] == [
        1.0,
        1.0,
        0.0,
        0.0,
        2.0,
        2.0,
    ]


def table() -> list[list[str]]:
    """Cells of the rows that name a setting: difference, setting, four values, reason."""
    rows = [line.strip("| \n").split("|") for line in TABLE.read_text().splitlines()]
    cells = [[cell.strip() for cell in row] for row in rows]
    return [row for row in cells if len(row) == 7 and row[1].startswith("`")]


@pytest.mark.parametrize(("column", "preset"), list(enumerate(PRESETS, start=2)))
def test_the_table_of_the_readme_says_what_a_preset_does(column: int, preset: str) -> None:
    config = load(f"preset={preset}")
    told = {
        row[1].strip("`"): tomllib.loads(f"x = {row[column].strip('`')}")["x"] for row in table()
    }
    for key, value in told.items():
        assert setting(config, key) == value, key
    assert keys(preset).keys() <= told.keys()


@pytest.mark.parametrize(("kind", "file"), FILES, ids=[file.stem for _, file in FILES])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_shipped_file_builds_under_every_preset(
    kind: type[RunConfig], file: Path, preset: str
) -> None:
    config = load_config(kind, file, [f"preset={preset}"])
    deepspeed_config(config, world_size=1)
    with torch.device("meta"):
        task = (
            PretrainingTask(config.model, config.objectives, PUBLISHED)
            if isinstance(config, PretrainConfig)
            else AnsweringTask(config.model, PUBLISHED, PUBLISHED.num_answers)
        )
    build_optimizer(config.optimizer, task.parameters())


def test_the_published_recipe_is_the_published_model() -> None:
    config = load_config(PretrainConfig, ROOT / "configs" / "pretrain" / "lxmert.toml")
    assert config.model == ModelConfig()
    assert config.objectives == ObjectivesConfig()
    assert config.optimizer == OptimizerConfig()
    assert (config.train.epochs, config.train.global_batch_size) == (20, 256)
