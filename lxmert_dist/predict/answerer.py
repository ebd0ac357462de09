"""A model that answers, with what it needs to read words and to name answers.

Shapes: B pairs, T tokens, I images, O objects, F feature width, A answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lxmert_dist.errors import CheckpointError, ConfigError, DataError
from lxmert_dist.ingest.task_questions import NLVR2_ANSWERS
from lxmert_dist.ingest.tokenizer import fast_tokenizer
from lxmert_dist.interop import ours, tokenizers
from lxmert_dist.interop.answers import name_rows, read_answers
from lxmert_dist.interop.ours import Modules
from lxmert_dist.interop.source import Guess
from lxmert_dist.model import AttentionMaps, read_attention
from lxmert_dist.predict.weights import find_source
from lxmert_dist.schema import ModelInputs
from lxmert_dist.tasks.inputs import to_tensor
from lxmert_dist.tasks.weights import Description, TaskWeights

MAX_TOKENS = 20
"""Of weights that do not say how long their sentences were: that of the published ones."""


@dataclass(frozen=True)
class Images:
    """I images as a model reads them.

    Boxes as in :class:`~lxmert_dist.schema.RoiRecord`. ``real`` is True at real objects, which
    stand first in each row; None is all.
    """

    roi_features: Float[np.ndarray, "I O F"]
    boxes: Float[np.ndarray, "I O 4"]
    real: Bool[np.ndarray, "I O"] | None = None


class Answerer:
    """A model, its tokenizer and its answers; :func:`load_answerer` finds all three.

    Attributes:
        uri: where the weights are.
        description: what they belong to.
        answers: of the rows of the answer head.
        tokenizer: of transformers.
        images_per_pair: 2 where sentences are about two images (NLVR2), which stand one behind the
            other with the sentence for each; else 1.
        max_tokens: longest sentence, [CLS] and [SEP] included; the rest is cut.
    """

    def __init__(
        self,
        weights: TaskWeights,
        tokenizer: Any,
        *,
        max_tokens: int,
        device: str = "cpu",
    ) -> None:
        """Build the model.

        Raises:
            CheckpointError: a tensor is missing or of another shape.
            ConfigError: there is no such device.
        """
        self.uri = weights.uri
        self.description: Description = weights.description
        self.answers: Sequence[str] = weights.description.answers
        self.tokenizer = tokenizer
        self._fast = fast_tokenizer(tokenizer)
        self.max_tokens = max_tokens
        self._device = _device(device)
        self._modules: Modules = ours.opened(weights).to(self._device)
        self.images_per_pair = 2 if weights.description.kind == "pair" else 1
        # Most fine-tuning asks of each answer whether it is right, the others which one is.
        exclusive = weights.description.kind in ("pretraining", "pair")
        self._exclusive = exclusive or weights.description.exclusive

    def tokenise(self, questions: Sequence[str]) -> list[list[int]]:
        """The word pieces of questions, with [CLS] and [SEP], cut to ``max_tokens``.

        Raises:
            DataError: a question is empty; names its place.
        """
        for place, question in enumerate(questions, 1):
            if not question.strip():
                raise DataError(f"question {place} of {len(questions)} is empty; ask something")
        first, last = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        encoded = self._fast.encode_batch_fast(list(questions), add_special_tokens=False)
        return [[first, *one.ids[: self.max_tokens - 2], last] for one in encoded]

    def grid(
        self, sentences: Sequence[Sequence[int]]
    ) -> tuple[Int64[np.ndarray, "B T"], Int64[np.ndarray, " B"]]:
        """Sentences as rows that are padded at their ends, and their lengths."""
        lengths = np.array([len(sentence) for sentence in sentences])
        token_ids = np.full((len(sentences), int(lengths.max())), self.tokenizer.pad_token_id)
        token_ids[np.arange(token_ids.shape[1]) < lengths[:, None]] = list(chain(*sentences))
        return token_ids, lengths

    def inputs(
        self,
        token_ids: Int64[np.ndarray, "B T"],
        lengths: Int64[np.ndarray, " B"],
        images: Images,
        image_index: Int64[np.ndarray, " B"],
    ) -> ModelInputs:
        """What the model reads.

        Args:
            token_ids: from [CLS] to [SEP], padded at the end of each row.
            lengths: of the sentences.
            images: I of them.
            image_index: which of them each pair shows: 0 to I - 1, first uses in order.
        """
        return ModelInputs.pack(
            torch.from_numpy(token_ids),
            torch.from_numpy(np.arange(token_ids.shape[1]) < lengths[:, None]),
            to_tensor(images.roi_features),
            to_tensor(images.boxes),
            torch.from_numpy(image_index),
            object_mask=None if images.real is None else torch.from_numpy(images.real),
        ).to(self._device)

    @torch.inference_mode()
    def answer(self, inputs: ModelInputs) -> Float[Tensor, "B A"]:
        """The score of every answer, in [0, 1], float32 on the CPU; see :meth:`scores`."""
        encoded = self._modules.model(inputs, need_vision=False)
        return self.scores(self._logits(encoded.pooled))

    @torch.inference_mode()
    def look(self, inputs: ModelInputs) -> tuple[Float[Tensor, "B A"], AttentionMaps]:
        """The scores of all answers, and what every layer and head looked at."""
        encoded, maps = read_attention(self._modules.model, inputs)
        return self.scores(self._logits(encoded.pooled)), maps

    def _logits(self, pooled: Float[Tensor, "BN H"]) -> Float[Tensor, "B A"]:
        """Of the one head that there is; N is ``images_per_pair``."""
        if self.images_per_pair == 1:
            found: Tensor = self._modules.answer_head(pooled)
        else:
            found = self._modules.pair_head(pooled.reshape(len(pooled) // 2, -1))
        return found

    def scores(self, logits: Float[Tensor, "B A"]) -> Float[Tensor, "B A"]:
        """Sigmoids where each answer was judged by itself in training; else one softmax."""
        logits = logits.float()
        found = logits.softmax(-1) if self._exclusive else logits.sigmoid()
        return found.cpu()


def load_answerer(
    uri: str,
    *,
    device: str = "cpu",
    max_tokens: int | None = None,
    answers: str | Path | None = None,
    tokenizer: str | Path | None = None,
) -> Answerer:
    """Open weights that answer questions.

    Args:
        uri: a run, a checkpoint, or an export of ``launch/convert.py``, at any fsspec URI; or a
            file or directory that the released code or Hugging Face wrote.
        device: of the model.
        max_tokens: longest sentence, special tokens included, >= 3; None takes that of the
            training, or ``MAX_TOKENS`` where it is unknown.
        answers: a JSON file with the names of the answer head's rows; None takes those that the
            weights bring.
        tokenizer: a directory in place of the one that is found with the weights.

    Raises:
        CheckpointError: there are no weights, they are damaged, or have no answer head.
        ConfigError: ``max_tokens`` is out of range, or there is no such device.
        DataError: the tokenizer is missing or is another one, or answers cannot be read.
    """
    place = str(uri)
    source = find_source(place, Guess())
    weights = source.weights
    if not weights.description.sizes.get("num_answers") and weights.description.kind != "pair":
        raise CheckpointError(
            f"the weights at {place} have no answer head (they are: {weights.description.kind}); "
            "fine-tune them first (launch/finetune.py)"
        )
    if answers is not None:
        weights = name_rows(weights, read_answers(Path(answers)), str(answers))
    if weights.description.kind == "pair" and not weights.description.answers:
        named = weights.description.model_copy(update={"answers": NLVR2_ANSWERS})
        weights = replace(weights, description=named)
    _check_names(place, weights.description)
    longest = weights.description.model.max_positions
    if max_tokens is None:
        max_tokens = min(weights.description.max_tokens or MAX_TOKENS, longest)
    if not 3 <= max_tokens <= longest:
        raise ConfigError(f"max_tokens={max_tokens} must be from 3 to {longest}, as the model is")
    found = source.tokenizer if tokenizer is None else tokenizers.named(Path(tokenizer))
    if found is None:
        raise DataError(
            f"no tokenizer is with the weights at {place}, nor in the store that they were trained "
            "on; say which with tokenizer=DIR (--tokenizer DIR)"
        )
    tokenizers.check_fits(found, weights.description)
    return Answerer(weights, tokenizers.opened(found), max_tokens=max_tokens, device=device)


def _check_names(place: str, description: Description) -> None:
    names = description.answers
    if not names:
        raise CheckpointError(
            f"the rows of the answer head at {place} have no names; say which they are with "
            "answers=FILE (--answers FILE), such as trainval_label2ans.json"
        )
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise CheckpointError(
            f"{place}: two rows of the answer head are {double!r}; "
            "give a table without that (answers=FILE, --answers FILE)"
        )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device={name}: {str(error).splitlines()[0]}; use cpu, or cuda where there is a GPU"
        ) from error
    return device
