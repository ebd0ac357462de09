"""Accuracy on NLVR2, and consistency: the share of sentences that are right for all their pairs."""

from collections.abc import Sequence
from pathlib import Path

from lxmert_dist.errors import DataError, came_before
from lxmert_dist.json_list import read_lines
from lxmert_dist.scoring.predictions import Answers, check_complete
from lxmert_dist.scoring.result import ALL, Result, Samples
from lxmert_dist.scoring.servers import identifier, truth


def score_nlvr2(answers: Answers, labels: Path, *, partial: bool = False) -> Result:
    """The official accuracy and consistency.

    A sentence is consistent if all pairs of images with it are right; of partial predictions,
    those that were answered. Scores of one set of eight images form a cluster.

    Args:
        answers: "True" or "False" in any case, by ``identifier``.
        labels: the published file, JSON Lines with ``identifier`` and ``label``.
        partial: score the questions that were answered, and those alone.

    Raises:
        DataError: a line is not as above, or the files do not fit; names the file and the
            identifier.
    """
    samples = Samples()
    asked: dict[str, bool] = {}
    consistent: dict[tuple[str, str, str], bool] = {}
    for where, entry in read_lines(labels):
        uid = identifier(entry, where)
        if uid in asked:
            raise DataError(came_before(where, f"identifier {uid}"))
        asked[uid] = True
        label = entry.get("label")
        if not isinstance(label, str):
            raise DataError(f"{where}: label of {uid} is {label!r}; name a file with labels")
        if uid not in answers.by_uid:
            continue
        right = truth(label, f"{where}: label of {uid}") == truth(
            answers.by_uid[uid], f"{answers.path}: answer to {uid}"
        )
        split, images, _, sentence = uid.split("-")
        samples.add("accuracy", float(right), f"{split}-{images}")
        group = (split, images, sentence)
        consistent[group] = consistent.get(group, True) and right
    check_complete(answers, asked, labels, partial)
    for (split, images, _), right in consistent.items():
        samples.add("consistency", float(right), f"{split}-{images}")
    return Result("nlvr2", {ALL: samples.figures(_percent)})


def _percent(scores: Sequence[float]) -> float:
    return 100 * (sum(scores) / len(scores))
