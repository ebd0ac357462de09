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
from runs import ROOT, ledger

RAY = str(Path(sys.executable).parent / "ray")
HEAD = "10.77.0.1:6400"
JOBS = "http://10.77.0.1:8265"
QUICK = {
    # A node that says nothing is lost after 5 x 6 s; a cut of 20 s is none.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "6000",
    "RAY_health_check_failure_threshold": "5",
}


@dataclass
class RayNodes:
    """The cluster, and the network that it lives on."""

    net: Network

    def start(self, name: str) -> None:
        """Start the node of a host, and wait until the cluster has it."""
        host = self.net[name]
        head = ["--head", "--port=6400", "--dashboard-host=10.77.0.1", "--dashboard-port=8265"]
        line = [RAY, "start", "--block", f"--node-ip-address={host.address}", "--num-cpus=1"]
        line += head if name == "h1" else [f"--address={HEAD}"]
        line += ["--object-store-memory=300000000", "--disable-usage-stats"]
        line += ["--resources", json.dumps({name: 8})]
        node = host.start(line, log="ray", env=QUICK)
        node.wait_for(lambda: host.address in self.alive(), 200)

    def alive(self) -> list[str]:
        """The addresses of the nodes that the head counts as alive."""
        code = (
            "import json, urllib.request as r\n"
            f"answer = json.load(r.urlopen('{JOBS}/api/v0/nodes', timeout=20))\n"
            "nodes = answer['data']['result']['result']\n"
            "print(*(n['node_ip'] for n in nodes if n['state'] == 'ALIVE'))"
        )
        done = self.net["h1"].run([sys.executable, "-c", code], timeout=60)
        return done.output.split() if done.code == 0 else []

    def repair(self) -> None:
        """Make h2 whole again, whatever was done to it."""
        self.net.mend("h2")
        if self.net["h2"].address not in self.alive() or not self.net["h2"].processes("raylet"):
            self.net["h2"].end()
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
        """SIGKILL the raylet of a host, and what of Ray is left there."""
        self.net[name].kill("raylet")
        for process in self.net[name].processes("ray"):
            process.kill()

    def submit(self, settings: Sequence[str], *, log: str, **env: str) -> Started:
        """``ray job submit`` of a pretraining, from the switch, as a user does."""
        line = [RAY, "job", "submit", "--address", JOBS, "--working-dir", "."]
        line += ["--runtime-env-json", json.dumps({"env_vars": {**ranks_env(), **env}})]
        line += ["--submission-id", log, "--", "python", *script(settings)]
        return self.net.switch.start(line, log=log)

    def drive(self, settings: Sequence[str], *, log: str) -> Started:
        """The same as a command on h1: it ends with the driver's exit code."""
        line = [sys.executable, *script(settings), "--launcher", "ray"]
        env = {**ranks_env(), "RAY_ADDRESS": HEAD, "PYTHONPATH": str(ROOT)}
        return self.net["h1"].start(line, log=log, env=env)

    def workers(self, name: str) -> list:
        """The processes of a host that train."""
        return self.net[name].processes("ray::RayTrainWorker")


def ranks_env() -> dict[str, str]:
    """What ranks on a CPU need."""
    return {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def script(settings: Sequence[str]) -> list[str]:
    """The launch script and its settings."""
    return ["launch/pretrain.py", *(word for s in settings for word in ("--set", s))]


def at_step(run: Started, directory: Path, step: int, timeout: float = 300) -> None:
    """Wait until a run that goes on has done so many steps."""
    run.wait_for(lambda: len(ledger(directory)) >= step, timeout)


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
