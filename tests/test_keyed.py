"""Keyed draws: pure functions, uniform, independent over purposes."""

import numpy as np
import pytest

from lxmert_dist import keyed
from lxmert_dist.keyed import Purpose


def test_a_draw_depends_on_its_key_alone():
    every = keyed.bits(3, 1, np.arange(1000), Purpose.MATCH)
    assert keyed.bits(3, 1, 17, Purpose.MATCH) == every[17]
    assert keyed.bits(3, 1, np.array([[17], [4]]), Purpose.MATCH).tolist() == [
        [every[17]],
        [every[4]],
    ]


def test_the_streams_never_change():
    """Checkpoints depend on these numbers: a change needs a new plan version."""
    assert int(keyed.bits(9595, 2, 12345, Purpose.TOKEN_MASK, 6)) == FROZEN


FROZEN = 11399143389383828681


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"epoch": 2}, {"purpose": Purpose.NEGATIVE}, {"k": 1}]
)
def test_every_part_of_the_key_counts(change):
    key = {"seed": 3, "epoch": 1, "ids": np.arange(4000), "purpose": Purpose.MATCH, "k": 0}
    one, other = keyed.uniform(**key), keyed.uniform(**{**key, **change})
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(4000)


def test_uniform_and_integers_are_uniform():
    draws = keyed.uniform(0, 0, np.arange(100_000), Purpose.ANSWER)
    assert 0 <= draws.min() < draws.max() < 1
    counts = np.histogram(draws, 20, (0, 1))[0]
    assert np.all(abs(counts - 5000) < 5 * np.sqrt(5000))
    below = np.array([1, 7])
    whole = keyed.integers(0, 0, np.arange(70_000)[:, None], Purpose.ANSWER, below=below)
    assert set(whole[:, 0]) == {0}
    assert np.all(abs(np.bincount(whole[:, 1]) - 10_000) < 5 * np.sqrt(10_000))


def test_permutations_are_permutations():
    one = keyed.permutation(500, 1, 0, Purpose.SHARD_ORDER)
    assert sorted(one) == list(range(500))
    assert one.tolist() != keyed.permutation(500, 1, 1, Purpose.SHARD_ORDER).tolist()


@pytest.mark.parametrize("n", [*range(1, 40), 1000, 4096, 65537])
def test_a_permutation_in_parts_is_a_permutation(n):
    parts = np.array_split(np.arange(n), 3)
    found = np.concatenate([keyed.permuted(p, n, 5, 1, Purpose.SOURCE_ORDER) for p in parts])
    assert np.array_equal(np.sort(found), np.arange(n))
    if n > 30:
        for other in ((6, 1), (5, 2)):
            assert not np.array_equal(
                found, keyed.permuted(np.arange(n), n, *other, Purpose.SOURCE_ORDER)
            )


def test_a_permutation_in_parts_sends_any_place_anywhere():
    n, seeds = 20, 2000
    counts = np.zeros((n, n), int)
    for seed in range(seeds):
        counts[np.arange(n), keyed.permuted(np.arange(n), n, seed, 0, Purpose.SOURCE_ORDER)] += 1
    expected = seeds / n
    assert ((counts - expected) ** 2 / expected).sum() < 1.3 * (n - 1) ** 2  # measured 0.96


def test_the_draws_of_a_permutation_in_parts_stay_what_they_were():
    found = keyed.permuted(np.arange(12), 12, 1, 2, Purpose.SOURCE_ORDER)
    assert found.tolist() == [10, 0, 7, 2, 3, 6, 8, 9, 5, 11, 4, 1]
