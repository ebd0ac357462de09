"""Fine-tuning on questions with soft answers, such as VQA (paper, section 4).

Shapes: B pairs, A answers, H hidden.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.errors import CheckpointError, ConfigError
from lxmert_dist.model import AnswerHead, LxmertModel
from lxmert_dist.objectives.answers import normalise_answer
from lxmert_dist.objectives.losses import soft_answer_sum
from lxmert_dist.schema import (
    AnswerTargets,
    Collate,
    DataSpec,
    LossReport,
    MicroBatch,
    PairBatch,
)
from lxmert_dist.store.sentences import SentenceTable
from lxmert_dist.tasks.inputs import model_inputs, read_tokens, to_tensor


class AnsweringTask(nn.Module):
    """The model and an answer head on the pooled pair."""

    loss_names = ("answer_bce",)

    def __init__(self, model_config: ModelConfig, spec: DataSpec, num_answers: int) -> None:
        """Build with fresh weights, drawn from torch's global generator.

        The last cross layer's visual branch is not run; its parameters are kept, so that weights
        move by name, but require no gradient.

        Raises:
            ConfigError: there is no answer to choose from.
        """
        super().__init__()
        if num_answers < 1:
            raise ConfigError(
                "the store has no answers, so there is nothing to fine-tune on; "
                "prepare it with questions and answers"
            )
        self.model = LxmertModel(model_config, spec)
        self.answer_head = AnswerHead(model_config, num_answers)
        for parameter in self.model.cross_modality_encoder.last_visual_branch():
            parameter.requires_grad_(False)

    @property
    def loss_weights(self) -> dict[str, float]:
        """What multiplies each mean loss in the total."""
        return {"answer_bce": 1.0}

    def logits(self, batch: MicroBatch) -> Float[Tensor, "B A"]:
        """Scores of the answers; a sigmoid makes them probabilities."""
        encoded = self.model(batch.inputs, need_vision=False)
        result: Tensor = self.answer_head(encoded.pooled)
        return result

    def forward(self, batch: MicroBatch) -> LossReport:
        """Binary cross-entropy summed over answers and pairs; accuracy by soft score.

        Raises:
            TypeError: the batch was collated for another task.
        """
        targets = batch.targets
        if not isinstance(targets, AnswerTargets):
            raise TypeError("AnsweringTask needs batches from answering_collate")
        logits = self.logits(batch)  # (B, A)
        best = logits.detach().argmax(-1, keepdim=True)  # (B, 1)
        earned = targets.scores.gather(1, best).float().sum()
        return LossReport(
            losses={"answer_bce": soft_answer_sum(logits, targets.scores)},
            metrics={"accuracy": (earned, earned.new_tensor(len(logits)))},
        )


def answering_collate(sentences: SentenceTable, spec: DataSpec, *, max_tokens: int) -> Collate:
    """The function that reads sentences and soft answers; nothing is masked or drawn.

    Args:
        sentences: of the split.
        spec: of the store; ``num_answers`` is the width of the scores.
        max_tokens: longest sentence, special tokens included.
    """

    def collate(batch: PairBatch) -> MicroBatch:
        token_ids, lengths = read_tokens(sentences, batch.pair_ids, spec, max_tokens)
        offsets, answer_ids, answer_scores = sentences.answers(batch.pair_ids)
        pairs = len(batch.pair_ids)
        scores = np.zeros((pairs, spec.num_answers), np.float32)  # (B, A)
        scores[np.repeat(np.arange(pairs), np.diff(offsets)), answer_ids] = answer_scores
        return MicroBatch(
            pair_ids=to_tensor(batch.pair_ids),
            inputs=model_inputs(token_ids, lengths, batch.roi_features, batch),
            targets=AnswerTargets(to_tensor(scores)),
            counts={"answer_bce": float(pairs)},
        )

    return collate


@dataclass(frozen=True)
class TransferReport:
    """What fine-tuning took over from pretraining."""

    copied_answers: int
    """Answers whose row of the answer head was found."""
    missing_answers: tuple[str, ...]
    """Answers whose row starts at zero, or fresh where pretraining had no answer head."""


def load_pretrained(
    task: AnsweringTask,
    weights: Mapping[str, Tensor],
    source_answers: Sequence[str],
    target_answers: Sequence[str],
) -> TransferReport:
    """Start a fine-tuning task from the weights of a pretraining task.

    The backbone must fit exactly. The answer head's last layer is copied answer by answer, by
    normalised string; unknown answers start at zero (paper code, "loadLXMERTQA").

    Args:
        task: changed in place, unless an error is raised.
        weights: a pretraining task's state, by its own names.
        source_answers: the answers that were pretrained on, in order; empty if there were none.
        target_answers: the answers of ``task``, in order.

    Raises:
        CheckpointError: a tensor is missing, left over, or of another shape.
        ValueError: ``target_answers`` are not those of ``task``.
    """
    if len(target_answers) != task.answer_head.decoder.out_features:
        raise ValueError(
            f"{len(target_answers)} target answers for a head of "
            f"{task.answer_head.decoder.out_features}"
        )
    state = task.state_dict()
    decoder = [name for name in state if name.startswith("answer_head.decoder.")]
    copied = [
        name for name in state if name not in decoder and (source_answers or _is_backbone(name))
    ]
    expected = {name: tuple(state[name].shape) for name in copied}
    if source_answers:
        expected |= {name: (len(source_answers), *state[name].shape[1:]) for name in decoder}
    _check_shapes(weights, expected)
    row_of = {normalise_answer(answer): row for row, answer in enumerate(source_answers)}
    rows = {
        place: row_of[name]
        for place, name in enumerate(map(normalise_answer, target_answers))
        if name in row_of
    }
    with torch.no_grad():
        for name in copied:
            state[name].copy_(weights[name])
        for name in decoder if source_answers else ():
            state[name].zero_()
            state[name][list(rows)] = weights[name][list(rows.values())].to(state[name])
    missing = (answer for place, answer in enumerate(target_answers) if place not in rows)
    return TransferReport(len(rows), tuple(missing))


def _is_backbone(name: str) -> bool:
    return name.startswith("model.")


def _check_shapes(weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    advice = "use the model settings and the answer table of the pretraining run"
    for name, shape in expected.items():
        if name not in weights:
            raise CheckpointError(f"the checkpoint has no {name}; {advice}")
        if tuple(weights[name].shape) != shape:
            raise CheckpointError(
                f"{name} is {tuple(weights[name].shape)} in the checkpoint, not {shape}; {advice}"
            )
    for name in weights:
        if _is_backbone(name) and name not in expected:
            raise CheckpointError(f"the checkpoint holds {name}, the model does not; {advice}")
