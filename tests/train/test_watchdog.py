"""A rank that is missing, stuck or failed ends the others, which name it; a slow one does not."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from lxmert_dist.cli import pretrain
from lxmert_dist.schema import StepBatch
from lxmert_dist.train import loop, watchdog
from ranks import started
from runs import SMALL, at_step, ledger

pytestmark = pytest.mark.distributed

HOST = socket.gethostname()
LIMITS = ("cluster.timeout_seconds=60", "data.patience_s=2", "train.micro_batch_size=16")
ENDLESS = ("train.epochs=100", "train.max_steps=2000", "checkpoint.every=2000")
GOES_ON = "; the same command goes on from the last checkpoint"


def settings(store: str, directory: Path) -> list[str]:
    places = [f"directory={directory}", f"data.store={store}"]
    return [*SMALL, *LIMITS, *places, *ENDLESS]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_rank_is_named_by_the_other(tiny_store, tmp_path, lost):
    with started(settings(tiny_store, tmp_path), 2) as running:
        at_step(running, tmp_path, 3)
        running.processes[lost].kill()
        codes = running.wait(60)
        output = running.output
    assert codes[lost] == -signal.SIGKILL
    assert codes[1 - lost] == 1, output
    assert output.count(f"error: rank {lost} on {HOST} is gone: its process ended while") == 1
    assert GOES_ON in output
    assert "Traceback" not in output


def with_less_patience_for_silence(argv: list[str]) -> int:
    watchdog.SILENCE_SECONDS = 8
    return pretrain.main(argv)


def test_a_stopped_rank_is_named_by_the_other(tiny_store, tmp_path):
    chosen = settings(tiny_store, tmp_path)
    with started(chosen, 2, with_less_patience_for_silence) as running:
        at_step(running, tmp_path, 3)
        os.kill(running.processes[1].pid, signal.SIGSTOP)
        running.processes[0].join(60)
        assert running.processes[0].exitcode == 1, running.output
        assert f"rank 1 on {HOST} has not answered for 8 s, while" in running.output
        os.kill(running.processes[1].pid, signal.SIGCONT)  # it finds that it was given up
        assert running.wait(60) == [1, 1], running.output
        assert f"[rank 1] error: rank 1 on {HOST} has not answered for 8 s" in running.output


def is_rank_1() -> bool:
    return os.environ["RANK"] == "1"


def without_a_store_on_one(argv: list[str]) -> int:
    return pretrain.main([*argv, "--set", "data.store=/nowhere"] if is_rank_1() else argv)


def with_a_bug_on_one(argv: list[str]) -> int:
    def step(self: loop.Trainer, batch: StepBatch) -> None:
        if self.step == 3 and is_rank_1():
            raise ZeroDivisionError("a bug")
        before(self, batch)

    before, loop.Trainer._step = loop.Trainer._step, step
    return pretrain.main(argv)


def with_data_that_stay_away_on_one(argv: list[str]) -> int:
    def take(batches: Iterable[StepBatch], number: int) -> Iterator[StepBatch]:
        for step, batch in enumerate(before(batches, number)):
            if step == 3 and is_rank_1():
                time.sleep(1000)
            yield batch

    before, loop.take = loop.take, take
    return pretrain.main(argv)


@pytest.mark.parametrize(
    ("main", "known", "shown"),
    [
        (without_a_store_on_one, f"error: rank 1 on {HOST} ended: ", "[rank 1] error: "),
        pytest.param(
            with_a_bug_on_one,
            f"error: rank 1 on {HOST} ended: ZeroDivisionError: a bug{GOES_ON}",
            "ZeroDivisionError: a bug\n",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            with_data_that_stay_away_on_one,
            "error: no rank got further for cluster.timeout_seconds=60; the others wait for rank 1 "
            f"on {HOST} while waiting for the data of step 3{GOES_ON}",
            "[rank 1] error: no rank got further",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_keeps_one_rank_is_told_by_the_other(
    tiny_store, tmp_path, main: Callable[[list[str]], int], known, shown
):
    with started(settings(tiny_store, tmp_path), 2, main) as running:
        codes = running.wait(200)
        output = running.output
    assert codes == [1, 1], output
    assert any(line.startswith(known) for line in output.splitlines()), output
    assert shown in output


def with_a_slow_step_on_one(argv: list[str]) -> int:
    """It takes twice as long as a rank may be silent."""

    def step(self: loop.Trainer, batch: StepBatch) -> None:
        if self.step == 3 and is_rank_1():
            time.sleep(16)
        before(self, batch)

    before, loop.Trainer._step = loop.Trainer._step, step
    return with_less_patience_for_silence(argv)


def test_a_slow_rank_is_waited_for(tiny_store, tmp_path):
    chosen = [*settings(tiny_store, tmp_path), "train.max_steps=6"]
    with started(chosen, 2, with_a_slow_step_on_one) as running:
        assert running.wait(120) == [0, 0], running.output
    assert len(ledger(tmp_path)) == 6
