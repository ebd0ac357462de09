"""Questions about photographs: a detector in front of a model that answers."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from lxmert_dist.errors import ConfigError, DataError
from lxmert_dist.model import AttentionMaps
from lxmert_dist.opening import open_image
from lxmert_dist.predict.answerer import Answerer, Images, load_answerer
from lxmert_dist.schema import Detector, RoiRecord
from lxmert_dist.scoring.predictions import Prediction
from lxmert_dist.tasks.weights import Description

SALIENT = "salient"
"""Names the detector that needs no weights of its own."""

Pixels = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Question:
    """A question about an image: a file, or RGB pixels."""

    image: str | Path | Pixels
    text: str
    uid: str = "question"
    """Its id as text, see :class:`~lxmert_dist.scoring.predictions.Prediction`."""


@dataclass(frozen=True)
class PairAttention:
    """What a model looked at when it answered one question."""

    prediction: Prediction
    question: str
    tokens: tuple[str, ...]
    """The word pieces as the model read them, with [CLS] and [SEP]: T of them."""
    pixels: Pixels
    record: RoiRecord
    """The O regions of the image."""
    labels: tuple[str, ...]
    """What the detector takes each region for."""
    maps: AttentionMaps
    """Of this pair alone (B = 1), without padding."""


class Predictor:
    """Answers questions about images.

    Attributes:
        answerer: the model.
        detector: what describes the images.
    """

    def __init__(self, answerer: Answerer, detector: Detector) -> None:
        """Put a detector in front of a model.

        Raises:
            ConfigError: its features are of another width than those that the model knows.
        """
        if answerer.images_per_pair > 1:
            raise ConfigError(
                f"the weights at {answerer.uri} judge sentences about two images; answer those of "
                "a store (--store URI --split NAME)"
            )
        known = answerer.description.sizes["feature_dim"]
        if detector.feature_dim != known:
            raise ConfigError(
                f"the detector {detector.name!r} gives {detector.feature_dim} features a region, "
                f"the weights at {answerer.uri} were trained on {known}; give the detector that "
                f"they were trained with{_by_name(answerer.description)}"
            )
        trained = answerer.description.detector
        if trained not in ("", detector.name):
            _warn(
                f"{answerer.uri} was trained on regions of {trained!r}, these are of "
                f"{detector.name!r}; answers may be worse"
            )
        self.answerer = answerer
        self.detector = detector

    @classmethod
    def load(
        cls,
        uri: str | Path,
        *,
        detector: str | Path | Detector | None = None,
        device: str = "cpu",
        max_tokens: int | None = None,
        answers: str | Path | None = None,
        tokenizer: str | Path | None = None,
    ) -> "Predictor":
        """Open weights and a detector; the other arguments are those of :func:`load_answerer`.

        Args:
            uri: of the weights.
            detector: ``"salient"``, the directory of a Faster R-CNN, or any detector; None takes
                the one that the weights were trained with, where that is the salient one.
            device: of both.
            max_tokens: longest question.
            answers: a file with the names of the answer head's rows.
            tokenizer: a directory.

        Raises:
            CheckpointError, ConfigError, DataError: as :func:`load_answerer`, and where a detector
                is not named, cannot be opened, or gives other features.
        """
        answerer = load_answerer(
            str(uri), device=device, max_tokens=max_tokens, answers=answers, tokenizer=tokenizer
        )
        return cls(answerer, _detector(detector, answerer, device))

    def __call__(
        self, image: str | Path | Pixels, question: str, *, top: int = 5, uid: str = "question"
    ) -> Prediction:
        """Answer one question; see :meth:`batch`."""
        (prediction,) = self.batch([Question(image, question, uid)], top=top)
        return prediction

    def batch(
        self, questions: Sequence[Question], *, top: int = 5, size: int = 32, progress: bool = False
    ) -> list[Prediction]:
        """Answer many questions.

        Args:
            questions: questions about the same image file are best next to each other: then it is
                described once.
            top: how many answers each prediction keeps, >= 1.
            size: how many questions are answered at once, >= 1.
            progress: show a bar.

        Returns:
            A prediction for each question, in order.

        Raises:
            ConfigError: ``top`` or ``size`` is out of range.
            DataError: an image is missing or damaged, or a question is empty; names it.
        """
        check_counts(top=top, size=size)
        sentences = self.answerer.tokenise([question.text for question in questions])
        found: list[Prediction] = []
        records: dict[str, RoiRecord] = {}
        with tqdm(
            total=len(questions), desc="answers", unit="question", disable=not progress
        ) as bar:
            for start in range(0, len(questions), size):
                some = questions[start : start + size]
                names = [_name(question, start + k) for k, question in enumerate(some)]
                records = self._describe(dict(zip(names, some, strict=True)), records)
                rows = {name: row for row, name in enumerate(records)}
                inputs = self.answerer.inputs(
                    *self.answerer.grid(sentences[start : start + size]),
                    stack(list(records.values())),
                    np.array([rows[name] for name in names]),
                )
                uids = [question.uid for question in some]
                scores = self.answerer.answer(inputs)
                found += predictions(uids, scores, self.answerer.answers, top)
                bar.update(len(some))
        return found

    def attention(
        self, image: str | Path | Pixels, question: str, *, top: int = 5
    ) -> PairAttention:
        """Answer one question, and tell what every layer and head looked at.

        Raises:
            ConfigError, DataError: as :meth:`batch`.
        """
        check_counts(top=top)
        sentences = self.answerer.tokenise([question])
        pixels = _pixels(image)
        (record,) = self.detector.detect([_name(Question(image, question), 0)], [pixels])
        inputs = self.answerer.inputs(
            *self.answerer.grid(sentences), stack([record]), np.zeros(1, np.int64)
        )
        scores, maps = self.answerer.look(inputs)
        (prediction,) = predictions(["question"], scores, self.answerer.answers, top)
        return PairAttention(
            prediction,
            question,
            tuple(self.answerer.tokenizer.convert_ids_to_tokens(sentences[0])),
            pixels,
            record,
            tuple(_label(record, place, self.detector) for place in range(len(record.boxes))),
            maps.of_pair(0),
        )

    def _describe(
        self, questions: dict[str, Question], known: dict[str, RoiRecord]
    ) -> dict[str, RoiRecord]:
        """The records of images by name, in the order of the questions; some are known."""
        new = {name: _pixels(q.image) for name, q in questions.items() if name not in known}
        described = self.detector.detect(list(new), list(new.values()))
        every = known | dict(zip(new, described, strict=True))
        return {name: every[name] for name in questions}


def stack(records: Sequence[RoiRecord]) -> Images:
    """Records of one or more boxes each as arrays, padded with zeros to the most."""
    counts = np.array([len(record.boxes) for record in records])
    most, width = int(counts.max()), records[0].roi_features.shape[1]
    features = np.zeros((len(records), most, width), np.float32)
    boxes = np.zeros((len(records), most, 4), np.float32)
    for row, record in enumerate(records):
        features[row, : counts[row]] = record.roi_features
        boxes[row, : counts[row]] = record.boxes
    real = np.arange(most) < counts[:, None]
    return Images(features, boxes, None if real.all() else real)


def predictions(
    uids: Sequence[str], scores: Float[Tensor, "B A"], answers: Sequence[str], top: int
) -> Iterator[Prediction]:
    """The likeliest answers of B questions; of equal ones the first in the table comes first."""
    ordered, rows = scores.sort(dim=-1, descending=True, stable=True)
    likeliest = zip(uids, ordered[:, :top].tolist(), rows[:, :top].tolist(), strict=True)
    for uid, values, places in likeliest:
        named = tuple((answers[row], value) for row, value in zip(places, values, strict=True))
        yield Prediction(uid, *named[0], named)


def check_counts(**counts: int) -> None:
    """Whether numbers that count from 1 do.

    Raises:
        ConfigError: one is smaller; names it.
    """
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name}={count} must be at least 1")


def _detector(wanted: str | Path | Detector | None, answerer: Answerer, device: str) -> Detector:
    """The detector that was asked for, or that the weights were trained with."""
    if wanted is not None and not isinstance(wanted, str | Path):
        return wanted
    try:
        from lxmert_dist.detect import SalientDetector, load_detector
    except ImportError as error:
        raise DataError(
            f"describing images needs {error.name}: pip install 'lxmert_dist[detect]'"
        ) from error
    if wanted is not None and str(wanted) != SALIENT:
        return load_detector(Path(wanted), device=device)
    description = answerer.description
    salient = SalientDetector(description.sizes.get("num_objects") or 4, device=device)
    if wanted is None and salient.name != description.detector:
        raise ConfigError(
            f"which detector describes the images? {answerer.uri} was trained on regions of "
            f"{description.detector or 'an unknown one'!r}; say detector=DIR (--detector DIR) with "
            f"the directory of a Faster R-CNN, or {SALIENT!r} for the one without training"
        )
    return salient


def _pixels(image: str | Path | Pixels) -> Pixels:
    return image if isinstance(image, np.ndarray) else open_image(Path(image))


def _name(question: Question, place: int) -> str:
    """What an image is called: its path, or the place of the question that has its pixels."""
    if isinstance(question.image, np.ndarray):
        return f"image {place}"
    return str(question.image)


def _label(record: RoiRecord, place: int, detector: Detector) -> str:
    name = detector.object_classes[int(record.object_ids[place])]
    if record.attribute_scores[place] > 0:
        return f"{detector.attribute_classes[int(record.attribute_ids[place])]} {name}"
    return name


def _by_name(description: Description) -> str:
    return f", {description.detector!r}" if description.detector else ""


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)  # noqa: T201
