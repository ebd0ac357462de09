"""What is counted while features are read."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lxmert_dist.store.read_stats import ReadStats


def test_what_was_counted_is_taken_once():
    stats, seconds = ReadStats(), np.random.default_rng(1).random(300)
    for value in seconds:
        stats.got(10, float(value))
    stats.count("hedges")
    stats.count("failed_server", 2)
    taken = stats.take()
    for percent in (50, 95, 99):
        assert taken.pop(f"get_p{percent}_s") == pytest.approx(np.percentile(seconds, percent))
    assert taken == {"gets": 300, "bytes": 3000, "hedges": 1, "failed_server": 2}
    assert all(isinstance(value, float) for value in taken.values())
    assert stats.take() == {"gets": 0, "bytes": 0}


def test_no_count_of_a_thread_is_lost():
    stats, taken = ReadStats(), []
    with ThreadPoolExecutor(4) as pool:
        for number in range(2000):
            pool.submit(stats.got, 3, 0.1)
            if number % 50 == 0:
                taken.append(stats.take())
    taken.append(stats.take())
    assert sum(part["gets"] for part in taken) == 2000
    assert sum(part["bytes"] for part in taken) == 6000
