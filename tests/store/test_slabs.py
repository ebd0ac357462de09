"""Buffers come back when the last view is gone, are bounded, and go to whoever asked first."""

import gc
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
import torch

from lxmert_dist.store.slabs import ArrayPool, SlabPool

SIZE = 64


def take(pool: SlabPool) -> np.ndarray:
    return pool.take(pool.ticket())


def is_blocked(future) -> bool:
    """Whether it still waits after a while; a wrong pool hands the buffer over at once."""
    with pytest.raises(TimeoutError):
        future.result(timeout=0.1)
    return True


@pytest.mark.parametrize(
    "view",
    [
        lambda lease: lease[3:5],
        lambda lease: lease.view("<f2").reshape(4, 8)[1:, ::2].T,
        lambda lease: memoryview(lease)[8:],
        lambda lease: torch.from_numpy(lease)[:3].view(3, 1),
        lambda lease: np.frombuffer(memoryview(lease)[:8], "<f4"),
    ],
    ids=["slice", "reshaped", "memoryview", "tensor", "frombuffer"],
)
def test_a_buffer_comes_back_with_its_last_view(view):
    pool = SlabPool(SIZE, most=1)
    lease = take(pool)
    seen = view(lease)
    del lease
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(take, pool)
        assert is_blocked(other)
        del seen
        assert other.result(timeout=10).nbytes == SIZE
    assert pool.made == 1


def test_as_many_buffers_are_made_as_are_in_use_at_once():
    pool = SlabPool(SIZE)
    for _ in range(20):
        several = [take(pool) for _ in range(3)]
        assert len({lease.ctypes.data for lease in several}) == 3
        del several
    assert pool.made == 3


def test_buffers_in_a_cycle_come_back_when_it_is_collected():
    pool = SlabPool(SIZE, most=1)
    cycle: list[object] = [take(pool)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert take(pool).nbytes == SIZE


def test_a_buffer_comes_back_after_an_error_that_held_it():
    pool = SlabPool(SIZE, most=1)

    def fail() -> None:
        lease = take(pool)
        raise ValueError(str(lease.nbytes))

    with ThreadPoolExecutor(1) as threads:
        failed = threads.submit(fail)
        with pytest.raises(ValueError, match="64"):
            failed.result()
        del failed
        assert threads.submit(take, pool).result(timeout=10).nbytes == SIZE


def test_a_buffer_outlives_its_pool():
    pool = SlabPool(SIZE)
    lease = take(pool)
    pool.close()
    del pool
    lease[:] = 7
    assert lease.sum() == 7 * SIZE


def test_tickets_are_served_in_their_order():
    pool = SlabPool(SIZE, most=1)
    held = take(pool)
    served: list[int] = []

    def reader(ticket: int) -> None:
        lease = pool.take(ticket)
        served.append(ticket)
        del lease

    with ThreadPoolExecutor(5) as threads:
        tickets = [pool.ticket() for _ in range(5)]
        futures = [threads.submit(reader, ticket) for ticket in reversed(tickets)]
        del held
        for future in futures:
            future.result(timeout=10)
    assert served == tickets


def test_a_later_ticket_waits_although_a_buffer_is_free():
    pool = SlabPool(SIZE, most=2)
    first, second = pool.ticket(), pool.ticket()
    with ThreadPoolExecutor(1) as threads:
        later = threads.submit(pool.take, second)
        assert is_blocked(later)
        lease = pool.take(first)
        assert later.result(timeout=10).ctypes.data != lease.ctypes.data


def test_closing_wakes_everybody():
    pool = SlabPool(SIZE, most=1)
    lease = take(pool)
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(pool.take, pool.ticket()) for _ in range(3)]
        pool.close()
        for future in waiting:
            with pytest.raises(CancelledError):
                future.result(timeout=10)
    with pytest.raises(CancelledError):
        take(pool)
    del lease


def test_many_threads_never_share_a_buffer():
    pool = SlabPool(SIZE, most=3)
    barrier = threading.Barrier(8)

    def reader(number: int) -> None:
        barrier.wait()
        for _ in range(200):
            lease = take(pool)
            lease[:] = number
            assert (lease == number).all()
            del lease

    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(reader, number) for number in range(8)]:
            future.result(timeout=60)
    assert pool.made <= 3


def test_an_array_is_made_anew_only_while_the_last_is_looked_at():
    pool = ArrayPool()
    first = pool.empty((3, 4), np.float32)
    first[:] = 1
    row = first[2, 1:]
    place = first.ctypes.data
    del first
    other = pool.empty((3, 4), np.float32)
    other[:] = 2
    assert (row == 1).all()
    del row
    again = pool.empty((2, 4), np.float16)
    assert (again.shape, again.dtype, again.ctypes.data) == ((2, 4), np.float16, place)
    larger = pool.empty((6, 4), np.float32)
    larger[:] = 3
    assert (other == 2).all()
