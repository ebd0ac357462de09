"""The rows of an answer head: named by a file, and put in the order of another."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lxmert_dist.errors import CORRECT, CheckpointError, DataError
from lxmert_dist.tasks.transfer import match_answers
from lxmert_dist.tasks.weights import TaskWeights

DECODER = ("answer_head.decoder.weight", "answer_head.decoder.bias")


@dataclass(frozen=True)
class Reordered:
    """An answer head in a new order."""

    weights: TaskWeights
    rows: Mapping[int, int]
    """New row -> old row; rows that are absent are zero."""
    missing: tuple[str, ...]
    """The answers of those."""


def read_answers(path: Path, data_sets: Sequence[str] = ()) -> list[str]:
    """The answers of a JSON file, in order: strings, or objects with ``ans`` (``all_ans.json``).

    Args:
        path: of the file.
        data_sets: keep only the answers that one of these gave (``dsets``); all by default.

    Raises:
        DataError: it cannot be read, holds something else, or does not know a data set.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
        answers = [entry["ans"] if isinstance(entry, dict) else entry for entry in found]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"cannot read answers from {path} ({error}); check the path, or {CORRECT}"
        ) from error
    if not isinstance(found, list) or not all(isinstance(answer, str) for answer in answers):
        raise DataError(
            f'{path} is no table of answers, ["yes", …] or [{{"ans": "yes"}}, …]; give one '
            "such as all_ans.json or trainval_label2ans.json"
        )
    if not data_sets:
        return answers
    given_by = [_data_sets(entry) for entry in found]
    known = frozenset().union(*given_by)
    for name in sorted(set(data_sets) - known):
        raise DataError(
            f"no answer of {path} is of the data set {name!r}; "
            f"it knows {', '.join(sorted(known)) or 'none'}: choose among these"
        )
    chosen = frozenset(data_sets)
    return [answer for answer, sets in zip(answers, given_by, strict=True) if sets & chosen]


def _data_sets(entry: Any) -> frozenset[str]:
    named = entry.get("dsets") if isinstance(entry, dict) else None
    return frozenset(map(str, named)) if isinstance(named, list) else frozenset()


def name_rows(weights: TaskWeights, answers: Sequence[str], origin: str) -> TaskWeights:
    """Say which answers the rows of the head are.

    Raises:
        CheckpointError: there are not so many rows.
    """
    rows = weights.description.sizes.get("num_answers", 0)
    if len(answers) != rows:
        raise CheckpointError(
            f"{origin} has {len(answers)} answers, the answer head {rows} rows; give the table "
            "that it was trained with"
        )
    return replace(
        weights, description=weights.description.model_copy(update={"answers": tuple(answers)})
    )


def reorder(weights: TaskWeights, target: Sequence[str]) -> Reordered:
    """Give the head the answers ``target``, row by row and by normalised string.

    Raises:
        CheckpointError: there is no head, or its rows have no names.
    """
    description = weights.description
    if not description.sizes.get("num_answers"):
        raise CheckpointError(
            "these weights have no answer head to put in another order; leave --target-answers out"
        )
    if not description.answers:
        raise CheckpointError(
            "the rows of this answer head have no names; give the table of answers with --answers"
        )
    rows = match_answers(description.answers, target)
    tensors = dict(weights.tensors)
    for name in DECODER:
        tensors[name] = take_rows(tensors[name], rows, len(target))
    sizes = {**description.sizes, "num_answers": len(target)}
    update = {"sizes": sizes, "answers": tuple(target)}
    return Reordered(
        replace(weights, description=description.model_copy(update=update), tensors=tensors),
        rows,
        tuple(answer for place, answer in enumerate(target) if place not in rows),
    )


def take_rows(tensor: Tensor, rows: Mapping[int, int], count: int) -> Tensor:
    """``count`` rows: those of ``rows`` from ``tensor``, the others zero."""
    taken = tensor.new_zeros((count, *tensor.shape[1:]))
    taken[list(rows)] = tensor[list(rows.values())]
    return taken
