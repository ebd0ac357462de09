"""The hosts that other tests run on behave as hosts do."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from hosts import Network, network, why_not

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "hosts can be made"),
]


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    with network(tmp_path_factory.mktemp("net")) as made:
        yield made


def reaches(net: Network, name: str, other: str) -> bool:
    """Whether a connection to port 5000 comes about."""
    code = "import socket, sys; s = socket.create_connection((sys.argv[1], 5000), timeout=1)"
    return net[name].run([sys.executable, "-c", code, other], timeout=30).code == 0


def test_hosts_have_names_addresses_and_processes_of_their_own(net):
    assert net["h1"].run(["hostname"], timeout=10).output == "h1\n"
    assert "10.77.0.2/24" in net["h2"].run(["ip", "addr"], timeout=10).output
    sleeper = net["h1"].start(["sleep", "1234"], log="sleep")
    sleeper.wait_for(lambda: bool(net["h1"].processes("sleep", "1234")), 10)
    assert not net["h2"].processes("sleep", "1234")
    assert net["h2"].run(["pgrep", "-f", "sleep 1234"], timeout=10).code == 1
    net["h1"].kill("sleep", "1234")
    assert sleeper.wait(10).code != 0


def test_a_cut_link_loses_everything_until_it_is_mended_and_so_does_a_lost_host(net):
    serve = "import socket; s = socket.create_server(('', 5000)); [s.accept() for _ in range(99)]"
    server = net["h2"].start([sys.executable, "-c", serve], log="server")
    server.wait_for(lambda: reaches(net, "h1", "h2"), 20)
    net.cut("h2")
    assert not reaches(net, "h1", "h2")
    assert reaches(net, "h2", "h2")
    net.mend("h2")
    server.wait_for(lambda: reaches(net, "h1", "h2"), 20)
    net["h2"].end()
    assert server.wait(10).code != 0
    net.boot("h2")
    assert not reaches(net, "h1", "h2")
    server = net["h2"].start([sys.executable, "-c", serve], log="server")
    server.wait_for(lambda: reaches(net, "h1", "h2"), 20)


def test_nothing_is_left_when_the_process_that_made_them_is_killed(tmp_path):
    code = (
        "import sys, time; sys.path[:0] = sys.argv[2:]; import pathlib, hosts\n"
        "net = hosts.Network(pathlib.Path(sys.argv[1]), ['h1'])\n"
        "net['h1'].start(['sleep', '4321'], log='sleep')\n"
        "print(net['h1'].pid, net.switch.pid, flush=True); time.sleep(60)"
    )
    here = os.path.dirname(__file__)
    line = [sys.executable, "-c", code, str(tmp_path), here, os.path.dirname(here)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout
        pids = [int(word) for word in maker.stdout.readline().split()]
        firsts = [psutil.Process(pid) for pid in pids]
        maker.kill()
    gone, _ = psutil.wait_procs(firsts, timeout=10)
    assert len(gone) == len(pids) == 2
    deadline = time.monotonic() + 10
    while "4321" in " ".join(" ".join(p.info["cmdline"] or []) for p in running()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def running():
    return psutil.process_iter(["cmdline"])
