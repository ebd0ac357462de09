"""What the hub and the lines to it make of ranks that die, fall silent, stand still or leave."""

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lxmert_dist.train import heartbeat
from lxmert_dist.train.heartbeat import Clock, Hub, Limits, Line, Peer, Verdict, Wire

PATIENT = Limits(silence=60.0, standing=60.0)


class Ranks:
    """The hub of rank 0, and lines of other ranks, in one process."""

    def __init__(self, size: int, limits: Limits) -> None:
        self.verdicts: queue.Queue[tuple[int, Verdict]] = queue.Queue()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        others = {rank: Peer(rank) for rank in range(1, size)}
        own = Peer(0, host="h0", doing="training step 7")
        self.hub = Hub(self.listener, "secret", own, others, limits, self.tell(0))
        self.threads = [threading.Thread(target=self.hub.run)]
        self.threads[0].start()
        self.lines = {rank: self.call(rank, "secret", limits) for rank in others}

    def call(self, rank: int, token: str, limits: Limits) -> Line:
        wire = Wire(socket.create_connection(self.address))
        own = Peer(rank, host=f"h{rank}", doing="training step 7")
        return Line(wire, token, own, Peer(0, host="h0"), limits, self.tell(rank))

    def tell(self, rank: int):
        return lambda verdict: self.verdicts.put((rank, verdict))

    def listen(self, *ranks: int) -> None:
        """Start the watching of these; the others only called."""
        for rank in ranks:
            self.threads.append(threading.Thread(target=self.lines[rank].run))
            self.threads[-1].start()
        assert self.hub.complete.wait(10)

    def heard(self, number: int) -> dict[int, Verdict]:
        """The next verdicts, by the rank that got them."""
        return dict(self.verdicts.get(timeout=60) for _ in range(number))


@contextmanager
def ranks(size: int, limits: Limits = PATIENT) -> Iterator[Ranks]:
    made = Ranks(size, limits)
    try:
        yield made
    finally:
        for line in made.lines.values():
            line.end(None)
            line.wire.connection.close()
        made.hub.end(None)
        for thread in made.threads:
            thread.join(60)
            assert not thread.is_alive()
    assert made.verdicts.empty()


def test_all_that_died_are_named_to_all_that_did_not():
    with ranks(4) as made:
        made.listen(1)
        made.lines[2].wire.connection.close()
        made.lines[3].wire.connection.close()
        heard = made.heard(2)
    gone = "; ".join(
        f"rank {n} on h{n} is gone: its process ended while training step 7" for n in (2, 3)
    )
    assert heard == {0: Verdict(gone), 1: Verdict(gone)}


def test_a_silent_rank_is_named_and_one_that_speaks_is_not():
    with ranks(3, Limits(silence=3.0, standing=60.0)) as made:
        made.listen(1)  # rank 2 called, and says no more
        heard = made.heard(2)
    text = "rank 2 on h2 has not answered for 3 s, while training step 7"
    assert heard == {0: Verdict(text), 1: Verdict(text)}


def test_the_death_of_the_hub_is_seen_by_all_others():
    with ranks(3) as made:
        made.listen(1, 2)
        made.hub._ended = True  # as if its process were killed: no word, and its lines closed
        for wire in list(made.hub._lines.values()):
            wire.connection.shutdown(socket.SHUT_RDWR)
        heard = made.heard(2)
    text = "rank 0 on h0 is gone: its process ended while"
    assert sorted(heard) == [1, 2]
    assert all(verdict.text.startswith(text) for verdict in heard.values())


def test_an_error_of_one_rank_is_told_to_all_others():
    with ranks(3) as made:
        made.listen(1, 2)
        made.lines[2].end(Verdict("rank 2 on h2 ended: bad data", final=True))
        heard = made.heard(2)
    verdict = Verdict("rank 2 on h2 ended: bad data", final=True)
    assert heard == {0: verdict, 1: verdict}


def test_who_is_behind_is_named_when_all_stand_still():
    with ranks(3, Limits(silence=60.0, standing=3.0)) as made:
        made.listen(1, 2)
        made.hub.own.marks = made.lines[1].own.marks = 9
        made.lines[2].own.marks, made.lines[2].own.doing = 8, "waiting for the data of step 7"
        heard = made.heard(3)
    assert heard[0] == heard[1] == heard[2]
    assert heard[0].text == (
        "no rank got further for cluster.timeout_seconds=3; the others wait for rank 2 on h2 "
        "while waiting for the data of step 7"
    )


def test_ranks_that_left_or_get_further_are_not_missing():
    with ranks(3, Limits(silence=2.0, standing=4.0)) as made:
        made.listen(1, 2)
        made.lines[1].end(None)
        for _ in range(10):  # longer than each of the limits
            made.lines[2].own.marks += 1
            time.sleep(0.5)
        assert made.verdicts.empty()


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b'{"token": "\xc3\xa9"}\n', b"[1]\n"])
def test_a_stranger_is_hung_up_on(said):
    with ranks(2) as made:
        made.listen(1)
        with socket.create_connection(made.address) as stranger:
            stranger.settimeout(10)
            stranger.sendall(said)
            assert stranger.recv(1) == b""
        assert made.verdicts.empty()


def test_seconds_in_which_the_process_was_stopped_do_not_count(monkeypatch):
    times = iter([100.0, 100.5, 700.0, 701.0])
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: next(times))
    clock = Clock()
    assert [clock.tick(), clock.tick(), clock.tick()] == [0.5, 2.5, 3.5]
