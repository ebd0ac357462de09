"""No collective waits for ever: every process group has the limit of the settings."""

import datetime
import re
import sys

import pytest
from torch.distributed import distributed_c10d

from lxmert_dist.cli import pretrain
from lxmert_dist.train import world
from ranks import started
from runs import SMALL, at_stage

pytestmark = pytest.mark.distributed

LIMITS = ("cluster.timeout_seconds=123", "data.patience_s=5", "train.max_steps=2")


def pretrain_and_tell_limits(argv: list[str]) -> int:
    """Pretrain; before the groups are dissolved, say how long each of them waits."""
    leave = world.leave

    def tell(here: world.World) -> None:
        for group in distributed_c10d._world.pg_map:
            limit = group._get_backend(here.device).options._timeout
            line = f"{group.group_name}:{limit // datetime.timedelta(seconds=1)}s\n"
            sys.stdout.write(line)
            sys.stdout.flush()
        leave(here)

    world.leave = tell
    return pretrain.main(argv)


@pytest.mark.parametrize(
    "stage",
    [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow), 3],
)
def test_every_group_of_a_run_has_the_limit(tiny_store, tmp_path, stage):
    settings = [*SMALL, *LIMITS, *at_stage(stage), "train.micro_batch_size=16"]
    places = [f"directory={tmp_path}", f"data.store={tiny_store}"]
    with started([*settings, *places], 2, pretrain_and_tell_limits) as running:
        assert running.wait() == [0, 0], running.output
        limits = re.findall(r"\S+:(\d+)s", running.output)
    assert len(limits) >= 2 * 3  # the world, DeepSpeed's own, the snapshot's; on each rank
    assert set(limits) == {"123"}, running.output
