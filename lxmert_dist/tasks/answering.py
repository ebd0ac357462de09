"""Fine-tuning on questions with soft answers, such as VQA (paper, section 4).

Shapes: B pairs, A answers, H hidden.
"""

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.errors import ConfigError
from lxmert_dist.model import AnswerHead, LxmertModel
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

    def loss_weights_at(self, step: int) -> dict[str, float]:
        """What multiplies each mean loss in the total; the same in every ``step``."""
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


def answering_collate(
    sentences: SentenceTable, spec: DataSpec, *, max_tokens: int, multiple: int = 1
) -> Collate:
    """The function that reads sentences and soft answers; nothing is masked or drawn.

    Args:
        sentences: of the split.
        spec: of the store; ``num_answers`` is the width of the scores.
        max_tokens: longest sentence, special tokens included.
        multiple: see ``train.shape_multiple``.
    """

    def collate(batch: PairBatch) -> MicroBatch:
        token_ids, lengths = read_tokens(sentences, batch.pair_ids, spec, max_tokens, multiple)
        offsets, answer_ids, answer_scores = sentences.answers(batch.pair_ids)
        pairs = len(batch.pair_ids)
        scores = np.zeros((pairs, spec.num_answers), np.float32)  # (B, A)
        scores[np.repeat(np.arange(pairs), np.diff(offsets)), answer_ids] = answer_scores
        return MicroBatch(
            pair_ids=to_tensor(batch.pair_ids),
            inputs=model_inputs(token_ids, lengths, batch.roi_features, batch, multiple),
            targets=AnswerTargets(to_tensor(scores)),
            counts={"answer_bce": float(pairs)},
        )

    return collate
