"""Hosts that reach each other by ssh, as launchers that use it want it."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from hosts import Host, Network

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/usr/local/sbin")
ABSENT = [] if SSHD else ["sshd"]
ABSENT += [tool for tool in ("ssh", "ssh-keygen", "pdsh") if shutil.which(tool) is None]
WITHOUT_SSH = f"no {', '.join(ABSENT)} (Debian: openssh-server, openssh-client, pdsh)"
_CONFIG = """
IdentityFile {folder}/key
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
ServerAliveInterval 10
ServerAliveCountMax 3
"""
# So that the launcher ends, too, when a host is cut off.


def serve_ssh(net: Network, folder: Path) -> dict[str, str]:
    """Start an sshd on each host; returns the environment in which pdsh finds its way.

    ``folder/config`` is what ``ssh -F`` needs.
    """
    first, *_ = net.hosts.values()
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]
    assert first.run([*keygen, folder / "key"], timeout=30).code == 0
    (folder / "config").write_text(_CONFIG.format(folder=folder))
    Path("/run/sshd").mkdir(exist_ok=True)
    options = [f"HostKey={folder}/key", f"AuthorizedKeysFile={folder}/key.pub"]
    options += ["UsePAM=no", "StrictModes=no", "PidFile=none", "PermitRootLogin=yes"]
    env = {"PDSH_SSH_ARGS_APPEND": f"-F {folder}/config", "DS_ENV_FILE": str(folder / "env")}
    # What pdsh does not take along by itself.
    (folder / "env").write_text("DS_ACCELERATOR=cpu\nOMP_NUM_THREADS=1\n")
    for host in net.hosts.values():
        line = [str(SSHD), "-D", "-e", "-f", "/dev/null"]
        host.start([*line, *(f"-o{option}" for option in options)], log="sshd")
    for name in net.hosts:
        wait_until(lambda name=name: _reaches(first, name, folder), 30)
    return env


def _reaches(host: Host, name: str, folder: Path) -> bool:
    return host.run(["ssh", "-F", folder / "config", name, "true"], timeout=30).code == 0


def wait_until(ready: Callable[[], bool], timeout: float) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + timeout
    while not ready():
        assert time.monotonic() < deadline, f"not within {timeout:g} s"
        time.sleep(0.1)
