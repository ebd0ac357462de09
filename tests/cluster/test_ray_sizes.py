"""How many workers a cluster has room for, and how many of them become ranks."""

import pytest

from lxmert_dist.cluster.ray_nodes import shortage
from lxmert_dist.cluster.ray_train import check_places, check_sizes, failure_cause, hasty_stop
from lxmert_dist.config import ClusterConfig, PretrainConfig, load_config
from lxmert_dist.errors import ConfigError

MINIMAL = ["name=x", "directory=/runs/x", "data.store=s3://data/x", "data.lanes=64"]


def node(address: str, *, alive: bool = True, **resources: float) -> dict:
    return {"NodeManagerAddress": address, "Alive": alive, "Resources": resources}


TWO = [node("h1", CPU=3.0, GPU=1.0, disk=1.0), node("h2", CPU=1.0, GPU=1.0)]


@pytest.mark.parametrize(
    ("settings", "room"),
    [
        ({"workers": 4}, 4),
        ({"workers": 5}, 4),
        ({"workers": 9, "min_workers": 4, "max_workers": 9}, 4),
        ({"workers": 4, "placement": "STRICT_PACK"}, 3),
        ({"workers": 3, "placement": "STRICT_SPREAD"}, 2),
        ({"workers": 3, "gpus_per_worker": 1.0}, 2),
        ({"workers": 5, "gpus_per_worker": 0.5}, 3),
        ({"workers": 2, "resources_per_worker": {"disk": 1.0}}, 1),
        ({"workers": 2, "cpus_per_worker": 4.0}, 0),
    ],
)
def test_room_is_what_nodes_have_whole_workers_for(settings, room):
    cluster = ClusterConfig(**settings)
    missing = shortage(cluster, TWO)
    assert bool(missing) == (room < cluster.fewest)
    if missing:
        assert f"the run needs {cluster.fewest} workers with CPU=" in missing
        assert f"the nodes have room for {room}: h1 CPU=3" in missing
    one_more = shortage(cluster.model_copy(update={"workers": room + 1, "max_workers": 0}), TWO)
    assert f"room for {room}:" in one_more


def test_a_dead_node_has_no_room_and_many_nodes_are_not_all_listed():
    dead = [TWO[0], node("h2", alive=False, CPU=64.0)]
    assert shortage(ClusterConfig(workers=4), dead) == (
        "the run needs 4 workers with CPU=1 each (PACK), and the nodes have room for 3: h1 CPU=3"
    )
    many = [node(f"h{n}", CPU=1.0) for n in range(20)]
    missing = shortage(ClusterConfig(workers=21), many)
    assert missing.endswith("h7 CPU=1 and 12 more")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["workers=48"], "48 ranks do not divide data.lanes=64"),
        (["min_workers=8", "max_workers=48"], "48 ranks do not divide data.lanes=64"),
        (["min_workers=6", "max_workers=64"], "6 ranks do not divide data.lanes=64"),
    ],
)
def test_workers_that_cannot_share_the_work_are_refused(settings, message):
    config = load_config(
        PretrainConfig, None, [*MINIMAL, *(f"cluster.{setting}" for setting in settings)]
    )
    with pytest.raises(ConfigError, match=message):
        check_sizes(config)


@pytest.mark.parametrize(("workers", "ranks"), [(1, 1), (7, 4), (8, 8), (56, 32), (64, 64)])
def test_what_does_not_divide_the_lanes_is_spare(workers, ranks):
    pytest.importorskip("ray")
    from lxmert_dist.cluster.ray_worker import ranks_among

    config = load_config(PretrainConfig, None, MINIMAL)
    assert ranks_among(config, workers) == ranks


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("directory=runs/x", "directory='runs/x' is relative"),
        ("directory=s3://bucket/x", "directory='s3://bucket/x' must be a path"),
        ("data.store=data/x", "data.store='data/x' is relative"),
        ("checkpoint.uri=x", "checkpoint.uri='x' is relative"),
        ("cluster.storage=x", "cluster.storage='x' is relative"),
    ],
)
def test_places_that_not_all_nodes_share_are_refused(setting, message):
    with pytest.raises(ConfigError) as raised:
        check_places(load_config(PretrainConfig, None, [*MINIMAL, setting]))
    assert message in str(raised.value)


def test_a_job_is_told_when_its_stop_would_be_hasty():
    job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}
    assert hasty_stop(25.0, {}) == ""
    assert "after 3 s" in hasty_stop(25.0, job)
    assert '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}}' in hasty_stop(25.0, job)
    assert "after 20 s" in hasty_stop(25.0, job | {"RAY_JOB_STOP_WAIT_TIME_S": "20"})
    assert hasty_stop(25.0, job | {"RAY_JOB_STOP_WAIT_TIME_S": "40"}) == ""


def test_a_failure_is_told_by_what_became_of_the_ranks():
    pytest.importorskip("ray")
    from ray.train import WorkerGroupError

    failures = {1: RuntimeError("Connection closed by peer\nmore"), 0: ValueError("bad")}
    error = WorkerGroupError("Training failed due to worker errors:\n...", failures)
    assert failure_cause(error) == (
        "rank 0: ValueError: bad; rank 1: RuntimeError: Connection closed by peer"
    )
    assert failure_cause(RuntimeError("\n one line \nand more")) == "one line"
