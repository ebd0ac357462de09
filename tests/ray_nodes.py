"""A Ray cluster of two real nodes: h1 with the head, and h2, each a host with a CPU."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hosts import Network, Started, network
from runs import ROOT, SMALL

RAY = str(Path(sys.executable).parent / "ray")
HEAD = "10.77.0.1:6400"
JOBS = "http://10.77.0.1:8265"
STEPS = (
    "train.epochs=4",
    "train.max_steps=80",
    "checkpoint.every=10",
    "cluster.timeout_seconds=120",
    "cluster.wait_seconds=180",
    "cluster.allow_open=true",  # nobody else is on this network
)
DROPOUT = ("model.hidden_dropout=0.1", "model.attention_dropout=0.1")
QUICK = {
    # A node that says nothing is lost after 5 x 6 s; a cut of 20 s is none.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "6000",
    "RAY_health_check_failure_threshold": "5",
}


_WATCH = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)
while True:
    print(*(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]), flush=True)
    time.sleep(1)
"""


@dataclass
class RayNodes:
    """The cluster, and the network that it lives on."""

    net: Network
    watch: Started | None = None
    """Says each second which nodes are alive."""

    def start(self, name: str) -> None:
        """Start the node of a host, and wait until the cluster has it."""
        host = self.net[name]
        head = ["--head", "--port=6400", "--dashboard-host=10.77.0.1", "--dashboard-port=8265"]
        line = [RAY, "start", "--block", f"--node-ip-address={host.address}", "--num-cpus=1"]
        line += head if name == "h1" else [f"--address={HEAD}"]
        line += ["--object-store-memory=300000000", "--disable-usage-stats"]
        line += ["--resources", json.dumps({name: 8})]
        node = host.start(line, log="ray", env=QUICK)
        if name == "h1":
            node.wait_for(lambda: "Ray runtime started" in node.output, 200)
            self.watch = host.start([sys.executable, "-c", _WATCH, HEAD], log="alive")
        node.wait_for(lambda: host.address in self.alive(), 200)

    def alive(self) -> list[str]:
        """The addresses of the nodes that the head counts as alive."""
        seen = self.watch.output if self.watch else ""
        lines = seen[: seen.rfind("\n") + 1].splitlines()
        return lines[-1].split() if lines else []

    def repair(self) -> None:
        """Make h2 whole again, whatever was done to it."""
        host = self.net["h2"]
        if host.address in self.alive() and host.processes("/raylet/raylet"):
            self.net.mend("h2")
            return
        host.end()
        self.await_loss("h2")
        self.net.boot("h2")
        self.start("h2")

    def await_loss(self, name: str, timeout: float = 150) -> None:
        """Wait until the head knows that a node is gone."""
        deadline = time.monotonic() + timeout
        while self.net[name].address in self.alive():
            assert time.monotonic() < deadline, f"the head does not notice that {name} is gone"
            time.sleep(1)

    def lose(self, name: str) -> None:
        """SIGKILL the raylet of a host, and wait until what else is of Ray there has followed."""
        host = self.net[name]
        host.kill("/raylet/raylet")
        deadline = time.monotonic() + 60
        while host.processes("start", "--block") or host.processes("ray::"):
            assert time.monotonic() < deadline, f"Ray goes on on {name} without its raylet"
            time.sleep(0.2)

    def submit(self, script: Sequence[str], *, log: str, **env: str) -> Started:
        """``ray job submit`` of a launch script, from the switch, as a user does."""
        line = [RAY, "job", "submit", "--address", JOBS, "--working-dir", "."]
        line += ["--runtime-env-json", json.dumps({"env_vars": {**ranks_env(), **env}})]
        line += ["--submission-id", log, "--", "python", *script]
        return self.net.switch.start(line, log=log)

    def drive(self, script: Sequence[str], *, log: str) -> Started:
        """The same as a command on h1: it ends with the driver's exit code."""
        line = [sys.executable, *script, "--launcher", "ray"]
        env = {**ranks_env(), "RAY_ADDRESS": HEAD, "PYTHONPATH": str(ROOT)}
        return self.net["h1"].start(line, log=log, env=env)

    def workers(self, name: str) -> list:
        """The processes of a host that train."""
        return self.net[name].processes("ray::RayTrainWorker")


def ranks_env() -> dict[str, str]:
    """What ranks on a CPU need."""
    return {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def settings(store: str, directory: Path, *more: str) -> list[str]:
    """Of a run of 80 steps."""
    return [*SMALL, *STEPS, f"directory={directory}", f"data.store={store}", *more]


def pretraining(store: str, directory: Path, *more: str) -> list[str]:
    """The launch script of pretraining with these :func:`settings`."""
    chosen = settings(store, directory, *more)
    return ["launch/pretrain.py", *(word for setting in chosen for word in ("--set", setting))]


def send(run: Started, number: signal.Signals) -> None:
    """Send a signal to a command itself, past ``nsenter``."""
    os.kill(run.process.pid, number)


@contextmanager
def ray_nodes(folder: Path) -> Iterator[RayNodes]:
    """Two nodes, until the block ends."""
    with network(folder) as net:
        nodes = RayNodes(net)
        nodes.start("h1")
        nodes.start("h2")
        yield nodes
