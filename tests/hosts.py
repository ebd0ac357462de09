"""Hosts on one machine, as namespaces on a private switch.

A host has its own network with one address, host name, process ids and mounts: ``/tmp/ray`` and
``/dev/shm`` are private, ``/etc/hosts`` names all hosts, other files are the machine's. Nothing has
a name outside: when the process that made a network ends, in whatever way, the kernel takes hosts,
links and all that runs on them away.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from runs import ROOT, Finished, environment

TOOLS = ("ip", "unshare", "nsenter")
NAMESPACES = ("--net", "--uts", "--mount", "--pid")

# The pipe to its standard input holds the first process of a host; its end is the host's.
_INIT = """
set -e
hostname "$1"
mkdir -p "$2/private" /tmp/ray
mount --bind "$2/private" /tmp/ray
mount -t tmpfs -o size=4g tmpfs /dev/shm
mount --bind "$2/../hosts" /etc/hosts
ip link set lo up
echo up
cat > /dev/null
"""


def why_not() -> str:
    """Why there can be no hosts here; empty if there can."""
    if os.geteuid() != 0:
        return "hosts are namespaces, which root alone can make"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"no {', '.join(absent)} on PATH (Debian: iproute2, util-linux)"
    probe = subprocess.run(
        ["unshare", *NAMESPACES, "--fork", "ip", "link", "add", "probe", "type", "bridge"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"this machine makes no namespaces: {probe.stderr.strip()}" if probe.returncode else ""


@dataclass
class Host:
    """One host; it lives as long as its first process."""

    name: str
    address: str
    folder: Path
    """Its private files, and the logs of what was started on it."""
    init: subprocess.Popen[str]
    pid: int
    """Of its first process, as the machine counts."""
    _entrances: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(
        self, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, timeout: float
    ) -> Finished:
        """Run a command to its end, in the root of the repository."""
        done = subprocess.run(
            self._inside(command),
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Finished(done.returncode, done.stdout)

    def start(
        self, command: Sequence[str | Path], *, log: str, env: Mapping[str, str] | None = None
    ) -> "Started":
        """Start a command that goes on; what it says goes to ``log`` in the host's folder."""
        file = self.folder / log
        with file.open("a") as output:
            process = subprocess.Popen(
                self._inside(command),
                env=environment(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._entrances.append(process)
        return Started(process, file)

    def processes(self, *words: str) -> list[psutil.Process]:
        """What runs on this host and has all these words in its command line, the oldest first."""
        mine = os.stat(f"/proc/{self.pid}/ns/pid").st_ino
        found = []
        for process in psutil.process_iter():
            try:
                if os.stat(f"/proc/{process.pid}/ns/pid").st_ino == mine:
                    line = " ".join(process.cmdline())
                    if all(word in line for word in words):
                        found.append(process)
            except (psutil.Error, OSError):  # it ended meanwhile
                continue
        return sorted(found, key=psutil.Process.create_time)

    def kill(self, *words: str) -> None:
        """SIGKILL what :meth:`processes` finds, and wait until it is gone."""
        found = self.processes(*words)
        assert found, f"nothing on {self.name} has {words} in its command line"
        for process in found:
            process.kill()
        assert not psutil.wait_procs(found, timeout=10)[1]

    def end(self) -> None:
        """Take the power away: all of its processes, and its link, are gone at once."""
        assert self.init.stdin
        self.init.stdin.close()
        for process in (self.init, *self._entrances):
            process.wait(timeout=30)

    def _inside(self, command: Sequence[str | Path]) -> list[str]:
        prefix = ["nsenter", f"--target={self.pid}", *NAMESPACES, "env", f"--chdir={ROOT}"]
        return [*prefix, *map(str, command)]


@dataclass(frozen=True)
class Started:
    """A command that was started on a host."""

    entrance: subprocess.Popen[bytes]
    """``nsenter``, which ends with the command's exit code and passes no signal on."""
    log: Path

    @property
    def process(self) -> psutil.Process:
        """The command itself."""
        return psutil.Process(self.entrance.pid).children()[0]

    @property
    def output(self) -> str:
        """What it said so far."""
        return self.log.read_text(errors="replace")

    def wait(self, timeout: float) -> Finished:
        """Wait for the end."""
        try:
            code = self.entrance.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it hangs after {timeout:g} s:\n{self.output}") from None
        return Finished(code, self.output)

    def wait_for(self, ready: Callable[[], bool], timeout: float) -> None:
        """Wait until something holds that the command, still running, brings about."""
        deadline = time.monotonic() + timeout
        while not ready():
            assert self.entrance.poll() is None, f"it ended:\n{self.output}"
            assert time.monotonic() < deadline, f"not within {timeout:g} s:\n{self.output}"
            time.sleep(0.05)


class Network:
    """A switch and the hosts on it."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """``folder``: for the hosts' private files."""
        self._folder = folder
        self._addresses = {name: f"10.77.0.{n}" for n, name in enumerate(names, start=1)}
        self._addresses["switch"] = "10.77.0.254"
        lines = ["127.0.0.1 localhost", *(f"{a} {n}" for n, a in self._addresses.items())]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        self.hosts: dict[str, Host] = {}
        self.switch = self._new("switch")
        """Where what is outside of the hosts runs: services, and a user's shell."""
        address = f"{self.switch.address}/24"
        self._on_switch("link", "add", "br0", "type", "bridge")
        self._on_switch("addr", "add", address, "dev", "br0")
        self._on_switch("link", "set", "br0", "up")
        for name in names:
            self.boot(name)

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def boot(self, name: str) -> Host:
        """Start a host, or start it again after its end, with the same name and address."""
        host = self.hosts[name] = self._new(name)
        port = self._port(name)
        # The same hardware address each time: the others remember it for a minute.
        number = host.address.rpartition(".")[2]
        hardware = ["address", f"02:00:00:00:00:{int(number):02x}"]
        peer = ["peer", "name", "eth0", *hardware, "netns", str(host.pid)]
        # The link of its former life may take the kernel a while to clear away.
        _ip(self.switch.pid, "link", "del", port, check=False)
        self._on_switch("link", "add", port, "type", "veth", *peer)
        self._on_switch("link", "set", port, "master", "br0", "up")
        _ip(host.pid, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _ip(host.pid, "link", "set", "eth0", "up")
        return host

    def cut(self, name: str) -> None:
        """Lose whatever goes to or from a host; as when a switch fails, neither end is told."""
        self._on_switch("link", "set", self._port(name), "nomaster")

    def mend(self, name: str) -> None:
        """Connect a host again."""
        self._on_switch("link", "set", self._port(name), "master", "br0")

    def close(self) -> None:
        """End all hosts, then the switch."""
        for host in (*self.hosts.values(), self.switch):
            host.end()

    def _new(self, name: str) -> Host:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        script = ["sh", "-c", _INIT, "init", name, str(folder)]
        init = subprocess.Popen(
            ["unshare", *NAMESPACES, "--fork", "--mount-proc", *script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert init.stdout
        assert init.stdout.readline() == "up\n", f"host {name} did not start"
        init.stdout.close()
        (first,) = psutil.Process(init.pid).children()
        return Host(name, self._addresses[name], folder, init, first.pid)

    def _port(self, name: str) -> str:
        return f"to-{name}"

    def _on_switch(self, *arguments: str) -> None:
        _ip(self.switch.pid, *arguments)


@contextmanager
def network(folder: Path, names: Sequence[str] = ("h1", "h2")) -> Iterator[Network]:
    """Hosts on a switch, until the block ends."""
    made = Network(folder, names)
    try:
        yield made
    finally:
        made.close()


def _ip(pid: int, *arguments: str, check: bool = True) -> None:
    command = ["nsenter", f"--target={pid}", "--net", "ip", *arguments]
    subprocess.run(command, check=check, stderr=None if check else subprocess.DEVNULL)
