"""Held-out pairs with what a run's weights say of them, and what they look at.

Shapes: B pairs, T tokens, O objects, V vocabulary, A answers, M masked word pieces.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lxmert_dist import keyed
from lxmert_dist.ingest.image_pairs import image_ids
from lxmert_dist.keyed import Purpose
from lxmert_dist.model import EncoderOutput, read_attention
from lxmert_dist.report.pictures import find_picture
from lxmert_dist.schema import IGNORED, MicroBatch, PretrainTargets
from lxmert_dist.store import Split
from lxmert_dist.store.tokenizer import tokenizer_files
from lxmert_dist.stream.loader import limit_pairs
from lxmert_dist.tasks import AnsweringTask, PretrainingTask
from lxmert_dist.tasks.weights import word_pieces
from lxmert_dist.train.job import Evaluation, Job
from lxmert_dist.train.world import World

GUESSES = 3
REGIONS = 12
"""Columns of a heat table: the regions that are looked at most."""


@dataclass(frozen=True)
class Guess:
    """Something that a head says, with its probability."""

    text: str
    probability: float
    right: bool


@dataclass(frozen=True)
class MaskedWord:
    """A word piece that was to be told, at its place in the sentence."""

    place: int
    truth: str
    guesses: Sequence[Guess]


@dataclass(frozen=True)
class Box:
    """A region in pixels of the image; ``looked`` is how much [CLS] looks at it, in [0, 1]."""

    left: float
    top: float
    width: float
    height: float
    label: str
    score: float
    looked: float


@dataclass(frozen=True)
class Heat:
    """Attention from words (rows) to regions (columns), and to all other regions together."""

    words: Sequence[str]
    regions: Sequence[str]
    values: Sequence[Sequence[float]]
    rest: Sequence[float]


@dataclass(frozen=True)
class Verdict:
    """What the heads say of one pair; None and empty where they were not asked."""

    matched: bool = True
    """Whether the sentence is one of the image."""
    matching: Guess | None = None
    masked: Sequence[MaskedWord] = ()
    answers: Sequence[Guess] = ()
    expected: Sequence[str] = ()
    """The answers that people gave."""


@dataclass(frozen=True)
class Sample:
    """One pair, as the model read it and as it answered; of two images, a sample for each."""

    uid: str
    source: str
    image_id: str
    height: int
    width: int
    picture: str
    """A ``data:`` URI; empty where there is no image file."""
    words: Sequence[str]
    boxes: Sequence[Box]
    verdict: Verdict
    heat: Heat = field(repr=False)


def read_samples(job: Job, number: int, images: Path | None) -> Iterator[Sample]:
    """Samples of the split that a run is judged on: test questions, or held-out pairs.

    They are drawn by the run's seed, so that nobody chose them. Sentences of a pretraining run are
    swapped and masked as in its validation.

    Args:
        job: with the weights of the run.
        number: how many pairs.
        images: folder of image files by image id; None looks where the data set's package is.
    """
    pretrains = isinstance(job.task, PretrainingTask)
    evaluation = job.validation if pretrains else (*job.final, job.validation)[0]

    def choose(n: int) -> np.ndarray:
        return keyed.permutation(n, job.config.seed, 0, Purpose.SPLIT)

    chosen = replace(evaluation, index=limit_pairs(evaluation.index, number, choose))
    pieces = word_pieces(tokenizer_files(job.store.tokenizer_dir()))
    with chosen.loader(job.config, World()) as loader:
        for step in loader:
            for batch in step.micro_batches:
                yield from _samples(job, chosen, batch, pieces, images)


@torch.no_grad()
def _samples(
    job: Job, evaluation: Evaluation, batch: MicroBatch, pieces: Sequence[str], images: Path | None
) -> Iterator[Sample]:
    encoded, maps = read_attention(job.task.model, batch.inputs)
    verdicts = _verdicts(job, evaluation.split, batch, encoded, pieces)
    token_ids = batch.inputs.padded_token_ids()
    split, table = evaluation.split, evaluation.split.sentences
    images_per_pair = job.store.spec.images_per_pair
    for place, pair in enumerate(np.repeat(batch.pair_ids.numpy(), images_per_pair).tolist()):
        own = maps.of_pair(place)
        row = int(table.image_rows[pair])
        looks = own.word_to_region[-1, 0].mean(0)  # (T, O), the last layer's mean over heads
        number = place % images_per_pair
        boxes = _boxes(job, split, row, looks[0], number * looks.shape[1])
        words = [pieces[i] for i in token_ids[place][maps.words[place].cpu()].tolist()]
        height, width = split.sizes[row].tolist()
        image_id = image_ids(split.image_ids[row], images_per_pair)[number]
        yield Sample(
            uid=table.uids([pair])[0],
            source=table.sources[table.source_ids[pair]],
            image_id=image_id,
            height=height,
            width=width,
            picture=find_picture(image_id, images, job.store.manifest.info),
            words=words,
            boxes=boxes,
            verdict=verdicts[place // images_per_pair],
            heat=_heat(words, boxes, looks),
        )


def _verdicts(
    job: Job, split: Split, batch: MicroBatch, encoded: EncoderOutput, pieces: Sequence[str]
) -> list[Verdict]:
    """What the run's heads say, pair by pair."""
    match job.task:
        case AnsweringTask() as task:
            chances = task.probabilities(task.answer_logits(encoded.pooled))  # (B, A)
            offsets, ids, _ = split.sentences.answers(batch.pair_ids.numpy())
            given = [ids[a:b].tolist() for a, b in pairwise(offsets.tolist())]
            return [
                Verdict(answers=_best(one, job.store.answers, right), expected=_named(right, job))
                for one, right in zip(chances, given, strict=True)
            ]
        case PretrainingTask() as task:
            return _pretraining_verdicts(job, task, batch, encoded, pieces)


def _pretraining_verdicts(
    job: Job,
    task: PretrainingTask,
    batch: MicroBatch,
    encoded: EncoderOutput,
    pieces: Sequence[str],
) -> list[Verdict]:
    targets = batch.targets
    assert isinstance(targets, PretrainTargets)
    matched = task.matching_head(encoded.pooled).softmax(-1)[:, 1].tolist()
    masked: list[list[MaskedWord]] = [[] for _ in matched]
    rows = targets.masked_tokens[targets.masked_tokens != IGNORED]
    words = task.masked_lm_head(encoded.language[rows], encoded.word_table).softmax(-1)  # (M, V)
    length = batch.inputs.attention_mask.shape[1]
    for slot, truth, chances in zip(
        batch.inputs.slots[rows].tolist(), targets.masked_lm.tolist(), words, strict=False
    ):
        pair, place = divmod(slot, length)
        masked[pair].append(MaskedWord(place, pieces[truth], _best(chances, pieces, [truth])))
    asked = {}
    if task.answer_head is not None:
        rows = targets.questions[targets.questions != IGNORED]
        answers = task.answer_head(encoded.pooled[rows]).softmax(-1)  # (Q, A)
        for pair, truth, chances in zip(
            rows.tolist(), targets.answer_ids.tolist(), answers, strict=False
        ):
            asked[pair] = (_best(chances, job.store.answers, [truth]), _named([truth], job))
    return [
        Verdict(
            bool(truth),
            _matching(chance, bool(truth)),
            masked[pair],
            *asked.get(pair, ((), ())),
        )
        for pair, (chance, truth) in enumerate(
            zip(matched, targets.is_matched.tolist(), strict=True)
        )
    ]


def _matching(chance: float, truth: bool) -> Guess:
    said = chance >= 0.5
    text = "belongs to the image" if said else "was swapped"
    return Guess(text, chance if said else 1 - chance, said == truth)


def _best(chances: Float[Tensor, " K"], names: Sequence[str], right: Sequence[int]) -> list[Guess]:
    """The likeliest of some names."""
    top = chances.float().topk(min(GUESSES, len(chances)))
    return [
        Guess(names[i], chance, i in right)
        for chance, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    ]


def _named(answer_ids: Sequence[int], job: Job) -> list[str]:
    return [job.store.answers[i] for i in answer_ids]


def _boxes(job: Job, split: Split, row: int, looked: Float[Tensor, " O"], first: int) -> list[Box]:
    """The real regions of an image, which begin at place ``first`` of its row."""
    height, width = split.sizes[row].tolist()
    corners = split.boxes[row] * np.array([width, height, width, height], np.float32)
    boxes = []
    for place, share in enumerate(looked.tolist(), first):
        left, top, right, bottom = corners[place].tolist()
        name = job.store.object_classes[split.object_ids[row, place]]
        if split.attribute_scores[row, place] > 0:
            name = f"{job.store.attribute_classes[split.attribute_ids[row, place]]} {name}"
        score = float(split.object_scores[row, place])
        boxes.append(Box(left, top, right - left, bottom - top, name, score, share))
    return boxes


def _heat(words: Sequence[str], boxes: Sequence[Box], looks: Float[Tensor, "T O"]) -> Heat:
    shown = looks.sum(0).topk(min(REGIONS, len(boxes))).indices.sort().values
    values = looks[:, shown]
    return Heat(
        words=words,
        regions=[f"{int(i) + 1} {boxes[i].label}" for i in shown],
        values=values.tolist(),
        rest=(looks.sum(1) - values.sum(1)).clamp(min=0).tolist(),
    )
