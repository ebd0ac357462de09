"""Fine-tuning on sentences with answers: VQA, GQA, NLVR2, own classes (paper, section 4).

Shapes: B pairs, A answers, H hidden, N images of a pair (2 in NLVR2, else 1).
"""

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor, nn

from lxmert_dist.config.sections import AnswerLoss, ModelConfig
from lxmert_dist.errors import ConfigError
from lxmert_dist.model import AnswerHead, LxmertModel
from lxmert_dist.objectives.losses import cross_entropy_sum, soft_answer_sum
from lxmert_dist.schema import (
    IGNORED,
    AnswerTargets,
    Collate,
    DataSpec,
    LossReport,
    MicroBatch,
    PairBatch,
)
from lxmert_dist.store.sentences import SentenceTable
from lxmert_dist.tasks.inputs import images_apart, model_inputs, read_tokens, to_tensor


class AnsweringTask(nn.Module):
    """The model and an answer head on the pooled pair, or on those of both images of a pair."""

    def __init__(
        self,
        model_config: ModelConfig,
        spec: DataSpec,
        num_answers: int,
        loss: AnswerLoss = "bce",
    ) -> None:
        """Build with fresh weights, drawn from torch's global generator.

        The last cross layer's visual branch is not run; its parameters are kept, so that weights
        move by name, but require no gradient.

        Args:
            model_config: of the backbone.
            spec: of the store; sentences about N images are read with each of them.
            num_answers: A.
            loss: ``bce``: every answer is judged by itself, against its soft score (VQA, GQA);
                ``cross_entropy``: one answer is right, that of the highest score (NLVR2, classes).

        Raises:
            ConfigError: there is no answer to choose from.
        """
        super().__init__()
        if num_answers < 1:
            raise ConfigError(
                "the store has no answers, so there is nothing to fine-tune on; "
                "prepare it with questions and answers"
            )
        self.loss_names = answer_loss_names(loss)
        self.model = LxmertModel(model_config, spec)
        self.images_per_pair = spec.images_per_pair
        # Its name tells what it reads, so that neither is taken for the other.
        self._head = "answer_head" if spec.images_per_pair == 1 else "pair_head"
        self.add_module(self._head, AnswerHead(model_config, num_answers, spec.images_per_pair))
        for parameter in self.model.cross_modality_encoder.last_visual_branch():
            parameter.requires_grad_(False)

    @property
    def head(self) -> AnswerHead:
        """``answer_head``, or ``pair_head``, which reads both images of a pair."""
        head = getattr(self, self._head)
        assert isinstance(head, AnswerHead)
        return head

    def loss_weights_at(self, step: int) -> dict[str, float]:
        """What multiplies each mean loss in the total; the same in every ``step``."""
        return dict.fromkeys(self.loss_names, 1.0)

    def logits(self, batch: MicroBatch) -> Float[Tensor, "B A"]:
        """Scores of the answers; see :meth:`probabilities`."""
        none = batch.inputs.first_tokens.new_zeros(0)  # but the first of each, which is pooled
        return self.answer_logits(self.model(batch.inputs, tokens=none, need_vision=False).pooled)

    def answer_logits(self, pooled: Float[Tensor, "BN H"]) -> Float[Tensor, "B A"]:
        """Scores from what the encoders say of each image of each pair."""
        result: Tensor = self.head(pooled.reshape(-1, self.images_per_pair * pooled.shape[-1]))
        return result

    def probabilities(self, logits: Float[Tensor, "B A"]) -> Float[Tensor, "B A"]:
        """In [0, 1]: of each answer by itself, or, with cross-entropy, of all together 1."""
        return logits.sigmoid() if self.loss_names == ("answer_bce",) else logits.softmax(-1)

    def forward(self, batch: MicroBatch) -> LossReport:
        """The loss summed over answers and pairs; accuracy by soft score.

        With cross-entropy, a pair without an answer is left out of the loss, not of the accuracy.

        Raises:
            TypeError: the batch was collated for another task.
        """
        targets = batch.targets
        if not isinstance(targets, AnswerTargets):
            raise TypeError("AnsweringTask needs batches from answering_collate")
        logits = self.logits(batch)  # (B, A)
        best = logits.detach().argmax(-1, keepdim=True)  # (B, 1)
        earned = targets.scores.gather(1, best).float().sum()
        (name,) = self.loss_names
        if name == "answer_bce":
            loss = soft_answer_sum(logits, targets.scores)
        else:
            loss = cross_entropy_sum(logits, single_answers(targets.scores))
        return LossReport(
            losses={name: loss},
            metrics={"accuracy": (earned, earned.new_tensor(len(logits)))},
        )


def answer_loss_names(loss: AnswerLoss) -> tuple[str]:
    """What the log calls a loss."""
    return (f"answer_{loss}",)


def single_answers(scores: Float[Tensor, "B A"]) -> Int64[Tensor, " B"]:
    """The answer of the highest score, the first of equals; ``IGNORED`` where all are 0."""
    best, answers = scores.max(-1)
    return answers.where(best > 0, IGNORED)


def answering_collate(
    sentences: SentenceTable,
    spec: DataSpec,
    *,
    max_tokens: int,
    loss: AnswerLoss = "bce",
    multiple: int = 1,
) -> Collate:
    """The function that reads sentences and soft answers; nothing is masked or drawn.

    Args:
        sentences: of the split.
        spec: of the store; ``num_answers`` is the width of the scores.
        max_tokens: longest sentence, special tokens included.
        loss: of the task; cross-entropy counts the pairs that have an answer.
        multiple: see ``train.shape_multiple``.
    """

    def collate(batch: PairBatch) -> MicroBatch:
        single = images_apart(batch, spec.images_per_pair)  # B * N pairs
        token_ids, lengths = read_tokens(sentences, single.pair_ids, spec, max_tokens, multiple)
        offsets, answer_ids, answer_scores = sentences.answers(batch.pair_ids)
        pairs = len(batch.pair_ids)
        scores = np.zeros((pairs, spec.num_answers), np.float32)  # (B, A)
        scores[np.repeat(np.arange(pairs), np.diff(offsets)), answer_ids] = answer_scores
        answered = pairs if loss == "bce" else np.count_nonzero(np.diff(offsets))
        return MicroBatch(
            pair_ids=to_tensor(batch.pair_ids),
            inputs=model_inputs(token_ids, lengths, single.roi_features, single, multiple),
            targets=AnswerTargets(to_tensor(scores)),
            counts=dict.fromkeys(answer_loss_names(loss), float(answered)),
        )

    return collate
