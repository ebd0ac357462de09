"""What the ranks tell each other arrives as it was, and nothing of it is unpickled."""

import pickle
from pathlib import Path

import pytest
from torch.distributed import distributed_c10d

from lxmert_dist.train.world import World, agree, agree_on_any, gather_texts, join, leave
from ranks import called

TEXTS = ["", "ends with a null\0", "größer, 更大 🙂 " * 4000]


def told(rank: int, size: int, place: str) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something was unpickled")

    distributed_c10d._unpickler = pickle.loads = refuse  # type: ignore[assignment]
    world = World(rank, size)
    join(world, timeout_seconds=30)
    answers = [
        *(agree(text if rank == 0 else "mine", world) for text in TEXTS),
        *(agree_on_any(text if rank == size - 1 else "", world) for text in TEXTS),
        agree_on_any(f"rank {rank}", world),
        *gather_texts("x" * (100 * rank), world),
    ]
    Path(place, str(rank)).write_text(repr(answers))
    leave(world)


@pytest.mark.distributed
def test_every_rank_has_the_same_texts(tmp_path):
    with called(told, 3, str(tmp_path)) as ranks:
        assert ranks.wait() == [0, 0, 0], ranks.output
    expected = repr([*TEXTS, *TEXTS, "rank 0", "", "x" * 100, "x" * 200])
    assert [Path(tmp_path, str(rank)).read_text() == expected for rank in range(3)] == [True] * 3


def test_one_rank_tells_itself():
    assert (agree("a", World()), agree_on_any("b", World())) == ("a", "b")
    assert gather_texts("c", World()) == ["c"]
