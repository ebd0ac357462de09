"""Work in processes: what comes back, and what happens when one is lost."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from lxmert_dist.errors import DataError, WorkerError
from lxmert_dist.ingest.pool import IN_FLIGHT, Pool
from runs import ROOT, environment


def square(number):
    time.sleep(0.02 * (number % 3))  # later ones are done sooner
    return number * number, os.getpid()


def refuse_three(number):
    if number == 3:
        raise DataError("three")
    return number


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def pool():
    with Pool(2) as pool:
        yield pool


def test_results_come_in_order_from_other_processes_and_few_are_in_flight(pool):
    taken = []

    def numbers():
        for number in range(30):
            taken.append(number)
            yield number

    most = 0
    found = []
    for result, process in pool.map(square, numbers()):
        assert process != os.getpid()
        found.append(result)
        most = max(most, len(taken) - len(found))
    assert found == [n * n for n in range(30)]
    assert most <= IN_FLIGHT * 2 + 2


def test_an_error_arrives_as_it_is(pool):
    results = pool.map(refuse_three, range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match=r"^three$"):
        next(results)


def test_a_single_item_needs_no_other_process():
    with Pool(2) as pool:
        assert list(pool.map(square, [2])) == [(4, os.getpid())]
        assert list(pool.map(square, [])) == []
    with Pool(1) as pool:
        assert {process for _, process in pool.map(square, range(5))} == {os.getpid()}


def test_a_killed_process_is_an_error_that_says_what_to_do():
    with Pool(2) as pool, pytest.raises(WorkerError, match=r"was killed.*run the same command"):
        list(pool.map(die, range(5)))


PARENT = """
import signal, sys, time
from lxmert_dist.ingest.pool import Pool
if __name__ == "__main__":
    # Where the tests run in a shell's background, it is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Pool(2) as pool:
        for _ in pool.map(time.sleep, [0.01] * 4 + [1] * 1000):
            print("working", flush=True)
"""


@pytest.mark.parametrize(
    "sent", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_processes_end_with_their_parent(tmp_path, sent):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env=environment({"PYTHONPATH": str(ROOT)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with parent:
        assert parent.stdout.readline() == "working\n"
        family = psutil.Process(parent.pid).children(recursive=True)
        assert len(family) >= 2
        if sent == signal.SIGINT:  # as Ctrl-C does: to all of them
            os.killpg(parent.pid, sent)
        else:
            parent.send_signal(sent)
        gone, alive = psutil.wait_procs(family, timeout=60)
        for process in alive:
            process.kill()
        assert not alive, gone
        # only the parent speaks
        assert parent.stderr.read().count("Traceback") == (sent == signal.SIGINT)
