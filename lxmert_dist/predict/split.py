"""Answers to the questions of a store's split, from its features."""

import numpy as np
from tqdm.auto import tqdm

from lxmert_dist.errors import CheckpointError
from lxmert_dist.predict.answerer import Answerer, Images
from lxmert_dist.predict.predictor import check_counts, predictions
from lxmert_dist.schema import DataSpec, ModelInputs
from lxmert_dist.scoring.predictions import Prediction
from lxmert_dist.store import Split, Store
from lxmert_dist.stream.loader import index_pairs
from lxmert_dist.tasks.inputs import index_apart, objects_apart, read_tokens
from lxmert_dist.train.job import check_inputs


def predict_split(
    answerer: Answerer,
    store: Store,
    name: str,
    *,
    sources: tuple[str, ...] = (),
    top: int = 5,
    size: int = 128,
    progress: bool = False,
) -> list[Prediction]:
    """Answer the questions of a split; each object of features is read once.

    Args:
        answerer: the model.
        store: with the word pieces and features that it knows.
        name: of the split.
        sources: of the sentences that are questions; none named takes all.
        top: how many answers each prediction keeps, >= 1.
        size: how many questions are answered at once, >= 1.
        progress: show a bar.

    Returns:
        A prediction for each question, in the order of the split; ``uid`` is the store's.

    Raises:
        CheckpointError: the store has other word pieces or features.
        ConfigError: the split has no such source, or a number is out of range.
        StoreError: there is no such split, or it is damaged or out of reach.
    """
    check_counts(top=top, size=size)
    check_inputs(answerer.uri, answerer.description, store)
    here = store.spec.images_per_pair
    if here != answerer.images_per_pair:
        raise CheckpointError(
            f"{answerer.uri} reads {answerer.images_per_pair} images a sentence, the store at "
            f"{store.uri} has {here}; name two that belong together"
        )
    split = store.split(name)
    pair_ids = index_pairs(split, sources).pair_ids.astype(np.int64)
    rows = split.sentences.image_rows[pair_ids].astype(np.int64)  # ascending
    shards = rows // split.images_per_shard
    found: list[Prediction] = []
    with tqdm(total=len(pair_ids), desc="answers", unit="question", disable=not progress) as bar:
        for shard in np.unique(shards):
            first, last = np.searchsorted(shards, [shard, shard + 1])
            features = split.read_shard(int(shard))
            for start in range(int(first), int(last), size):
                stop = min(start + size, int(last))
                pairs = pair_ids[start:stop]
                base = int(shard) * split.images_per_shard
                chosen = rows[start:stop]
                inputs = _inputs(answerer, store.spec, split, pairs, chosen, features, base)
                scores = answerer.answer(inputs)
                found += predictions(split.sentences.uids(pairs), scores, answerer.answers, top)
                bar.update(stop - start)
    return found


def _inputs(
    answerer: Answerer,
    spec: DataSpec,
    split: Split,
    pairs: np.ndarray,
    rows: np.ndarray,
    features: np.ndarray,
    base: int,
) -> ModelInputs:
    """Some pairs of a shard whose first image is row ``base``."""
    images, image_index = np.unique(rows, return_inverse=True)
    number = answerer.images_per_pair
    real = None
    if split.num_boxes is not None:
        real = np.arange(split.num_objects) < split.num_boxes[images][:, None]
    # Each image of a row by itself, with the sentence.
    token_ids, lengths = read_tokens(
        split.sentences, pairs.repeat(number), spec, answerer.max_tokens
    )
    chosen = objects_apart(features[images - base], number)
    boxes = objects_apart(split.boxes[images], number)
    described = Images(chosen, boxes, real)
    return answerer.inputs(token_ids, lengths, described, index_apart(image_index, number))
