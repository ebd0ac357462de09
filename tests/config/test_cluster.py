"""[cluster]: what a worker takes, and how many there may be."""

from pathlib import Path

import pytest

from lxmert_dist.config import ClusterConfig, PretrainConfig, deepspeed_config, load_config
from lxmert_dist.errors import ConfigError

MINIMAL = ["name=x", "directory=runs/x", "data.store=data/x"]


def cluster(*settings: str) -> ClusterConfig:
    chosen = [*MINIMAL, *(f"cluster.{setting}" for setting in settings)]
    return load_config(PretrainConfig, None, chosen).cluster


def test_a_fixed_number_of_workers_is_the_fewest_and_the_most():
    fixed = cluster("workers=16", "gpus_per_worker=1", "resources_per_worker={disk = 0.5}")
    assert (fixed.elastic, fixed.fewest, fixed.most) == (False, 16, 16)
    assert fixed.resources == {"CPU": 1.0, "GPU": 1.0, "disk": 0.5}


def test_an_elastic_run_has_its_own_bounds():
    elastic = cluster("workers=3", "min_workers=8", "max_workers=64")
    assert (elastic.elastic, elastic.fewest, elastic.most) == (True, 8, 64)
    assert elastic.resources == {"CPU": 1.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["min_workers=2"], "min_workers=2 needs max_workers"),
        (["max_workers=2"], "min_workers=0 must be from 1 to max_workers=2"),
        (["min_workers=3", "max_workers=2"], "min_workers=3 must be from 1 to max_workers=2"),
        (
            ["min_workers=1", "max_workers=2", "placement=STRICT_SPREAD"],
            "max_workers needs placement PACK or SPREAD, not STRICT_SPREAD",
        ),
        (["placement=pack"], "'PACK', 'SPREAD', 'STRICT_PACK' or 'STRICT_SPREAD'"),
        (["resources_per_worker={GPU = 1}"], "set cpus_per_worker and gpus"),
        (["resources_per_worker={disk = 0}"], "resources_per_worker.disk: input should be greater"),
        (["wait_seconds=0"], "cluster.wait_seconds: input should be greater than or equal to 1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(settings, message):
    with pytest.raises(ConfigError, match="cluster") as raised:
        cluster(*settings)
    assert message in str(raised.value)


def test_the_example_for_many_nodes_is_one(tmp_path):
    shipped = Path(__file__).parents[2] / "configs" / "pretrain" / "lxmert.toml"
    text = shipped.read_text()
    start = text.index("# [cluster]")
    example = tmp_path / "lxmert.toml"
    example.write_text(text[:start] + text[start:].replace("\n# ", "\n").removeprefix("# "))
    config = load_config(PretrainConfig, example)
    assert (config.cluster.fewest, config.cluster.most) == (8, 64)
    for workers in (config.cluster.fewest, config.cluster.most):
        assert deepspeed_config(config, world_size=workers)["gradient_accumulation_steps"] == 1
