"""Every command of the page about many nodes, on two hosts that are called as it calls them.

Their one CPU each counts as a GPU for Ray, by ``RAY_OVERRIDE_RESOURCES``. Of Slurm nothing is here:
``srun`` starts its command on the host that it is called on, and is called on both with the
variables that Slurm sets.
"""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from workplace import Workplace, run_page

from hosts import Network, network, why_not
from relay import relay
from runs import ROOT, ledger
from ssh_hosts import ABSENT, WITHOUT_SSH, serve_ssh

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.ray,
    pytest.mark.s3,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "hosts can be made"),
    pytest.mark.skipif(bool(ABSENT), reason=WITHOUT_SSH),
    pytest.mark.timeout(3000),
]
PAGE = "lxmert_dist/cluster/README.md"
ON_GPU_NODE = {
    "RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": 1, "GPU": 1}),
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "300000000",
}
SRUN = """
[ "$1 $2 $3 $4" = "--nodes 2 --ntasks-per-node 1" ] || exit 64
shift 4
exec "$@"
"""
SHARE = """
mount -t tmpfs tmpfs /mnt
mkdir /mnt/shared
mount --bind {shared} /mnt/shared
"""
"""The nodes alone see it."""


class Nodes:
    """Both nodes; what is started on them has the environment ``env``."""

    def __init__(self, net: Network, workplace: Workplace, env: dict[str, str]) -> None:
        self.net = net
        self.workplace = workplace
        self.env = env

    def first(self, text: str) -> str:
        return self.workplace.run_on(self.net["node1"], text, **self.env)

    def other(self, text: str) -> str:
        return self.workplace.run_on(self.net["node2"], text, **self.env)

    def with_ray(self, text: str) -> str:
        """On the first, and then Ray leaves the memory of both to what comes next."""
        said = self.first(text)
        for end in (self.other, self.first):
            end("ray stop --force")
        return said

    def both(self, text: str) -> str:
        """At once; of each node Slurm would say which one it is."""
        step = {"SLURM_NTASKS": "2", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
        step |= {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}
        step = step if text.startswith("srun") else {}
        started = []
        for number, name in enumerate(("node1", "node2")):
            place = {"SLURM_PROCID": str(number), "SLURM_NODEID": str(number)} if step else {}
            env = self.workplace.env_of(**self.env, **step, **place)
            line = self.workplace.on(text)
            started.append(self.net[name].start(line, log=f"both{bool(step)}.log", env=env))
        ended = [one.wait(600) for one in started]
        output = "".join(done.output for done in ended)
        assert [done.code for done in ended] == [0, 0], output
        return output


@pytest.fixture
def nodes(workplace, folders, bucket, tmp_path) -> Iterator[Nodes]:
    shared = tmp_path / "shared"
    (tmp_path / "net").mkdir()
    (tmp_path / "ssh").mkdir()
    shared.mkdir()
    (shared / "data").symlink_to(folders("store") / "data")
    bucket.upload(folders("store") / "data" / "lxmert", "lxmert")
    (workplace.home / "hosts").write_text("node1 slots=1\nnode2 slots=1\n")
    workplace.shim("srun", SRUN)
    workplace.shim("ssh", f'exec /usr/bin/ssh -F {tmp_path}/ssh/config "$@"')
    with network(tmp_path / "net", ("node1", "node2")) as net:
        for host in net.hosts.values():
            done = host.run(["sh", "-ec", SHARE.format(shared=shared)], timeout=30)
            assert done.code == 0, done.output
        env = ON_GPU_NODE | serve_ssh(net, tmp_path / "ssh") | bucket.environment()
        env["AWS_ENDPOINT_URL"] = f"http://{net.switch.address}:{bucket.port}"
        with relay(net.switch, bucket.port):
            yield Nodes(net, workplace, env)


def plan(workplace: Workplace, text: str) -> str:
    """Of the published settings, since small ones have no work for 64 GPUs."""
    name = "configs/pretrain/lxmert.toml"
    shutil.copy(ROOT / name, workplace.home / name)
    return workplace.run(text)


def test_every_command_works(nodes, workplace, tmp_path):
    token = "export RAY_AUTH_MODE=token\nray "
    run_page(
        PAGE,
        workplace,
        {
            "ray get-auth-token": nodes.first,
            f"{token}start --head": nodes.first,
            f"{token}start --address": nodes.other,
            f"{token}job submit": nodes.with_ray,
            "deepspeed": nodes.first,
            "torchrun": nodes.both,
            "srun": nodes.both,
            "uv run python -m lxmert_dist.cluster.planner": partial(plan, workplace),
        },
    )
    runs = Path(tmp_path / "shared" / "runs")
    of_ray, *others = (ledger(runs / name) for name in ("ray", "deepspeed", "torchrun", "slurm"))
    assert len(of_ray) == 8
    for other in others:
        assert [e["identity"] for e in other] == [e["identity"] for e in of_ray]
