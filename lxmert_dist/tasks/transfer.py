"""Start a task from the weights of another one: by name, and answers by what they say."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lxmert_dist.errors import CheckpointError
from lxmert_dist.objectives.answers import normalise_answer

SHOWN = 8
"""How many missing answers a report spells out."""
_BACKBONE, _ANSWERS = "model.", "answer_head."
_DECODER = "answer_head.decoder."
_ADVICE = "use the model settings and the answer table that the weights were trained with"


@dataclass(frozen=True)
class TransferReport:
    """What a task took over from earlier weights."""

    copied: tuple[str, ...]
    """Parameters taken over; the answer head's last layer row by row."""
    fresh: tuple[str, ...]
    """Parameters that keep their fresh values."""
    unused: tuple[str, ...]
    """Tensors of the source that the task has no place for, or that do not fit it."""
    copied_answers: int
    """Answers whose row of the answer head was found."""
    missing_answers: tuple[str, ...]
    """Answers whose row starts at zero, or fresh where the source has no table of answers."""
    run_id: str = ""
    """Of the run that the weights are from, in its tracker; empty where that is not known."""

    def lines(self) -> Iterator[str]:
        """The report for people."""
        yield f"parameters: {len(self.copied)} taken over, {len(self.fresh)} start fresh"
        for what, names in (("fresh", self.fresh), ("not used", self.unused)):
            if names:
                yield f"{what}: {', '.join(_groups(names))}"
        yield answer_line(self.copied_answers, self.missing_answers)


def answer_line(copied: int, missing: Sequence[str]) -> str:
    """How many answers were found, and the first of those that were not."""
    line = f"answers: {copied} of {copied + len(missing)} found by name"
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        line += f"; without: {', '.join(map(repr, missing[:SHOWN]))}{more}"
    return line


def match_answers(source: Sequence[str], target: Sequence[str]) -> dict[int, int]:
    """Place in ``target`` -> place in ``source``, of equal answers once normalised."""
    row_of = {normalise_answer(answer): row for row, answer in enumerate(source)}
    wanted = enumerate(map(normalise_answer, target))
    return {place: row_of[name] for place, name in wanted if name in row_of}


def load_pretrained(
    task: nn.Module,
    weights: Mapping[str, Tensor],
    source_answers: Sequence[str],
    target_answers: Sequence[str],
    *,
    partial: bool = False,
    leave: Collection[str] = (),
) -> TransferReport:
    """Start a task from weights of our names.

    The backbone must fit exactly. Heads are taken over where both sides have them, tensor by
    tensor; what is absent or of another shape starts fresh. The answer head's last layer is
    copied answer by answer, by normalised string; unknown answers start at zero (released code,
    "loadLXMERTQA"). A head over two images is taken over by another one only ("loadLXMERT").

    Args:
        task: a task of ours; changed in place, unless an error is raised.
        weights: by our parameter names.
        source_answers: the answers of the rows of their answer head, in order; empty where they
            are unknown, and then the whole head starts fresh.
        target_answers: the answers of the answer head of ``task``, in order; empty where it has
            none.
        partial: parts of the backbone may be absent, as where BERT is the source.
        leave: stems of names that start fresh, e.g. ``visual_head.object_label``.

    Raises:
        CheckpointError: a tensor of the backbone or of the answer head is missing, left over, or
            of another shape.
        ValueError: ``target_answers`` are not those of ``task``.
    """
    state = task.state_dict()
    rows = state[f"{_DECODER}bias"].shape[0] if f"{_DECODER}bias" in state else 0
    if len(target_answers) != rows:
        raise ValueError(f"{len(target_answers)} target answers for a head of {rows}")
    named = bool(source_answers) and rows > 0
    expected = {
        name: tuple(value.shape)
        for name, value in state.items()
        if _must_fit(name, named) and (name in weights or not partial)
    }
    decoder = [name for name in expected if name.startswith(_DECODER)]
    expected |= {name: (len(source_answers), *state[name].shape[1:]) for name in decoder}
    _check_shapes(weights, expected)
    copied = [name for name in state if name in expected or _fits(name, state, weights, leave)]
    matched = match_answers(source_answers, target_answers) if named else {}
    with torch.no_grad():
        for name in copied:
            if name in decoder:
                state[name].zero_()
                chosen = weights[name][list(matched.values())]
                state[name][list(matched)] = chosen.to(state[name])
            else:
                state[name].copy_(weights[name])
    return TransferReport(
        copied=tuple(copied),
        fresh=tuple(name for name in state if name not in copied),
        unused=tuple(name for name in weights if name not in copied),
        copied_answers=len(matched),
        missing_answers=tuple(a for i, a in enumerate(target_answers) if i not in matched),
    )


def _must_fit(name: str, named: bool) -> bool:
    return name.startswith(_BACKBONE) or (named and name.startswith(_ANSWERS))


def _fits(
    name: str, state: Mapping[str, Tensor], weights: Mapping[str, Tensor], leave: Collection[str]
) -> bool:
    """Whether a tensor of a head can be taken over as it is; unnamed answers never are."""
    return (
        name in weights
        and weights[name].shape == state[name].shape
        and not name.startswith((_ANSWERS, *leave))
    )


def _check_shapes(weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in expected.items():
        if name not in weights:
            raise CheckpointError(f"the checkpoint has no {name}; {_ADVICE}")
        if tuple(weights[name].shape) != shape:
            raise CheckpointError(
                f"{name} is {tuple(weights[name].shape)} in the checkpoint, not {shape}; {_ADVICE}"
            )
    for name in weights:
        if name.startswith(_BACKBONE) and name not in expected:
            raise CheckpointError(f"the checkpoint holds {name}, the model does not; {_ADVICE}")


def _groups(names: Sequence[str]) -> list[str]:
    """The stems of names with how many there are: ``model.pooler (2)``."""
    counts: dict[str, int] = {}
    for name in names:
        stem = ".".join(name.split(".")[:2])
        counts[stem] = counts.get(stem, 0) + 1
    return [f"{stem} ({count})" if count > 1 else stem for stem, count in counts.items()]
