"""What a scoring gives: figures in per cent, and the scores that they are means of."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add

Cluster = int | str
"""What scores have in common that are not independent of each other, such as their image."""
Intervals = Mapping[tuple[str, str], tuple[float, float]]
"""By part and name of a figure: its lower and upper bound, in per cent."""

ALL = "all questions"
"""The part of a result that tells nothing apart."""


@dataclass(frozen=True)
class Figure:
    """The mean of ``scores``, in per cent and rounded as the official script rounds it.

    ``scores`` are in [0, 1] and at least one; ``clusters`` has the cluster of each.
    """

    percent: float
    scores: Sequence[float]
    clusters: Sequence[Cluster]


class Samples:
    """Collects the scores of the figures of one part, by name and in order."""

    def __init__(self) -> None:
        self._scores: dict[str, list[float]] = defaultdict(list)
        self._clusters: dict[str, list[Cluster]] = defaultdict(list)

    def add(self, name: str, score: float, cluster: Cluster) -> None:
        """One more score of the figure ``name``."""
        self._scores[name].append(score)
        self._clusters[name].append(cluster)

    def figures(
        self, percent: Callable[[Sequence[float]], float], *, ordered: bool = False
    ) -> dict[str, Figure]:
        """All figures.

        Args:
            percent: how the scores of one become its figure.
            ordered: by name, numbers by size; otherwise as they were begun.
        """
        names = sorted(self._scores, key=_rank) if ordered else list(self._scores)
        return {
            name: Figure(percent(self._scores[name]), self._scores[name], self._clusters[name])
            for name in names
        }


def left_to_right(numbers: Iterable[float]) -> float:
    """Their sum, rounded after every one as the official scripts do it.

    Since Python 3.12 ``sum`` makes up for what was rounded, and halves may fall to the other side.
    """
    return reduce(add, numbers, 0.0)


def _rank(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() else (-1, name)


@dataclass(frozen=True)
class Result:
    """The scores of one file of predictions."""

    task: str
    parts: Mapping[str, Mapping[str, Figure]]
    """Such as "answer type" -> "number" -> its accuracy; ``ALL`` comes first."""
    statistics: Mapping[str, float] = field(default_factory=dict)
    """What is no mean of scores, and no percentage."""
    notes: Sequence[str] = ()
    """What was left out, and why."""

    def as_json(self, intervals: Intervals) -> dict[str, object]:
        """Every figure by part and name: ``percent``, ``count``, and ``low`` and ``high``."""
        parts: dict[str, object] = {}
        for part, figures in self.parts.items():
            told: dict[str, dict[str, float]] = {}
            for name, figure in figures.items():
                told[name] = {"percent": figure.percent, "count": len(figure.scores)}
                if bounds := intervals.get((part, name)):
                    told[name] |= {"low": bounds[0], "high": bounds[1]}
            parts[part] = told
        return {
            "task": self.task,
            "parts": parts,
            "statistics": dict(self.statistics),
            "notes": list(self.notes),
        }

    def as_table(self, intervals: Intervals) -> Iterator[str]:
        """The same as lines."""
        named = [*self.statistics, *(name for part in self.parts.values() for name in part)]
        width = 2 + max(map(len, [*named, *self.parts]))
        for part, figures in self.parts.items():
            heading = f"{part:<{width}}{'per cent':>9}{'count':>10}"
            yield heading + (f"{'95 % interval':>20}" if intervals else "")
            for name, figure in figures.items():
                line = f"  {name:<{width - 2}}{figure.percent:>9.2f}{len(figure.scores):>10,}"
                if bounds := intervals.get((part, name)):
                    line += f"{bounds[0]:>11.2f} to {bounds[1]:>5.2f}"
                yield line
            if part == ALL:
                for name, value in self.statistics.items():
                    yield f"  {name:<{width - 2}}{value:>9.2f}"
        for note in self.notes:
            yield f"note: {note}"
