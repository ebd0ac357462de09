"""The same run over two hosts, by each launcher; and what one host says when the other is lost."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hosts import Network, Started, network, why_not
from runs import NO_DROPOUT, SMALL, identities, ledger, pretrain, worst_difference
from ssh_hosts import ABSENT, WITHOUT_SSH, serve_ssh, wait_until

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "hosts can be made"),
    pytest.mark.timeout(1800),
]
needs_ssh = pytest.mark.skipif(bool(ABSENT), reason=WITHOUT_SSH)

SCRIPT = "launch/pretrain.py"
SPLIT = ("train.micro_batch_size=16",)
LONG = (
    *SPLIT,
    "train.epochs=3",
    "train.max_steps=80",
    "checkpoint.every=5",
    "cluster.timeout_seconds=20",
    "data.patience_s=2",
)


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Iterator[Network]:
    with network(tmp_path_factory.mktemp("net")) as made:
        yield made


@pytest.fixture(scope="module")
def ssh(net: Network, tmp_path_factory) -> dict[str, str]:
    """An sshd on each host; the environment in which pdsh finds its way."""
    return serve_ssh(net, tmp_path_factory.mktemp("ssh"))


def chosen(store: str, directory: Path, *settings: str) -> list[str]:
    line = [SCRIPT]
    for setting in (*SMALL, *settings, f"directory={directory}", f"data.store={store}"):
        line += ["--set", setting]
    return line


@contextmanager
def deepspeed(net: Network, ssh: dict[str, str], line: list[str], log: str) -> Iterator[Started]:
    """The deepspeed launcher on h1, with a rank on each host."""
    hostfile = net["h1"].folder / "hostfile"
    hostfile.write_text("h1 slots=1\nh2 slots=1\n")
    launcher = [Path(sys.executable).parent / "deepspeed", "--hostfile", hostfile]
    launcher += ["--num_nodes", "2", "--num_gpus", "1", "--no_ssh_check"]
    launcher += ["--master_addr", net["h1"].address]
    started = net["h1"].start([*launcher, *line], log=log, env=ssh)
    try:
        yield started
    finally:
        for host in net.hosts.values():
            for process in host.processes(SCRIPT):
                process.kill()


def is_on_both_hosts(output: str) -> bool:
    return all(f"rank {n} of 2 on h{n + 1}, cpu (gloo)" in output for n in (0, 1))


@pytest.fixture(scope="module")
def alone(tiny_store, tmp_path_factory) -> list[dict]:
    return pretrain(tmp_path_factory.mktemp("alone"), tiny_store, *NO_DROPOUT)


def is_the_same(entries: list[dict], alone: list[dict]) -> bool:
    assert worst_difference(entries, alone) < 1e-5  # 1.5e-7 under the deepspeed launcher
    return identities(entries) == identities(alone)


@needs_ssh
def test_deepspeed_over_two_hosts_trains_the_same_pairs(net, ssh, alone, tiny_store, tmp_path):
    line = chosen(tiny_store, tmp_path, *NO_DROPOUT, *SPLIT)
    with deepspeed(net, ssh, line, "same.log") as running:
        done = running.wait(400)
    assert done.code == 0, done.output
    assert is_on_both_hosts(done.output), done.output
    assert is_the_same(ledger(tmp_path), alone)


@pytest.mark.slow
def test_torchrun_over_two_hosts_trains_the_same_pairs(net, alone, tiny_store, tmp_path):
    line = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    line += ["--rdzv-backend=c10d", f"--rdzv-endpoint={net['h1'].address}:29400"]
    line += chosen(tiny_store, tmp_path, *NO_DROPOUT, *SPLIT)
    both = [host.start(line, log="torchrun.log") for host in net.hosts.values()]
    ended = [started.wait(400) for started in both]
    output = "".join(done.output for done in ended)
    assert [done.code for done in ended] == [0, 0], output
    assert all(f"rank {n} of 2 on h" in output for n in (0, 1)), output
    assert is_the_same(ledger(tmp_path), alone)


@pytest.mark.slow
def test_slurm_over_two_hosts_trains_the_same_pairs(net, alone, tiny_store, tmp_path):
    """The variables that srun sets; of Slurm itself nothing is here."""
    line = [sys.executable, *chosen(tiny_store, tmp_path, *NO_DROPOUT, *SPLIT)]
    step = {"SLURM_NTASKS": "2", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    step |= {"SLURM_STEP_NODELIST": "h[1-2]", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}
    both = [
        host.start(line, log="slurm.log", env={**step, "SLURM_PROCID": n, "SLURM_NODEID": n})
        for n, host in zip("01", net.hosts.values(), strict=True)
    ]
    ended = [started.wait(400) for started in both]
    output = "".join(done.output for done in ended)
    assert [done.code for done in ended] == [0, 0], output
    assert is_on_both_hosts(output), output
    assert is_the_same(ledger(tmp_path), alone)


@pytest.mark.slow
@needs_ssh
@pytest.mark.parametrize("fault", ["cut", "kill"])
def test_a_lost_host_is_named_and_the_same_command_goes_on(net, ssh, tiny_store, tmp_path, fault):
    undisturbed = pretrain(tmp_path / "undisturbed", tiny_store, *LONG, ranks=2)
    directory = tmp_path / "run"
    line = chosen(tiny_store, directory, *LONG)
    with deepspeed(net, ssh, line, f"{fault}.log") as running:
        running.wait_for(lambda: len(ledger(directory)) >= 12, 400)
        if fault == "cut":
            net.cut("h2")
        else:
            net["h2"].kill(f"{SCRIPT} --local_rank")
        done = running.wait(120)
        wait_until(lambda: not net["h2"].processes(SCRIPT), 60)
        net.mend("h2")
    assert done.code != 0, done.output
    says = "has not answered for 20 s" if fault == "cut" else "is gone: its process ended"
    assert f"error: rank 1 on h2 {says}" in done.output, done.output
    assert 12 <= len(ledger(directory)) < 80
    with deepspeed(net, ssh, line, f"{fault}.log") as running:
        done = running.wait(400)
    assert done.code == 0, done.output
    assert ledger(directory) == undisturbed
