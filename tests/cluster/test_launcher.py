"""Which launcher started a process, and which rank it is."""

import pytest

from lxmert_dist.cluster.launcher import detect, tell_meeting_place, world
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


SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "7",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "1",
}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[003-007,9],login", "gpu003"),
        ("gpu[9,003-007]", "gpu9"),
        ("login,gpu[1-2]", "login"),
        ("one", "one"),
        ("rack[2-3]n[01-04]-ib", "rack2n01-ib"),
    ],
)
def test_slurm_ranks_meet_on_the_first_node(nodes, first):
    env = {**SLURM, "SLURM_JOB_NODELIST": "other", "SLURM_STEP_NODELIST": nodes}
    tell_meeting_place("slurm", env)
    assert env["MASTER_ADDR"] == first
    assert env["MASTER_PORT"] == "26668"  # 12000 + (1234567 + 101) % 20000
    here = world("slurm", env)
    assert (here.rank, here.size, here.local_rank, here.local_size) == (5, 7, 1, 2)


def test_a_meeting_place_that_was_told_stands_and_other_launchers_tell_theirs():
    told = {"MASTER_ADDR": "a", "MASTER_PORT": "1"}
    env = {**SLURM, **told, "SLURM_STEP_NODELIST": "b"}
    tell_meeting_place("slurm", env)
    assert {name: env[name] for name in told} == told
    alone = {**SLURM, "SLURM_STEP_NODELIST": "b"}
    tell_meeting_place("torchrun", alone)
    assert "MASTER_ADDR" not in alone


def test_a_place_that_slurm_does_not_tell_is_an_error():
    env = {name: value for name, value in SLURM.items() if name != "SLURM_JOB_ID"}
    tell_meeting_place("slurm", env)
    with pytest.raises(ConfigError, match="MASTER_ADDR and MASTER_PORT must tell"):
        world("slurm", env)
