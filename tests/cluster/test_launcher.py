"""Which launcher started a process, and which rank it is."""

import pytest

from lxmert_dist.cluster.launcher import detect, world
from lxmert_dist.errors import ConfigError

RANKS = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("env", "launcher"),
    [
        ({}, "process"),
        (RANKS, "deepspeed"),
        ({**RANKS, "TORCHELASTIC_RUN_ID": "x"}, "torchrun"),
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}, "ray"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, "slurm"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, "process"),
    ],
)
def test_the_launcher_shows_in_the_environment(env, launcher):
    assert detect(env) == launcher


def test_rank_and_size_come_from_the_environment():
    here = world("deepspeed", {**RANKS, "LOCAL_SIZE": "2"})
    assert (here.rank, here.size, here.local_rank, here.local_size) == (3, 4, 1, 2)
    assert not here.is_main
    assert world("process", RANKS).size == 1


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"])
def test_a_named_launcher_that_left_no_marks_is_an_error(missing):
    env = {k: v for k, v in RANKS.items() if k != missing}
    with pytest.raises(ConfigError, match=missing):
        world("torchrun", env)
