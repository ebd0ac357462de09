"""Which word pieces and objects are hidden, and behind what (paper, sections 3.1.1 and 3.1.2).

Every draw is keyed by (seed, epoch, pair id, position), so it depends neither on the batch nor on
the padding; pairs that share an image share its objects' draws. Shapes: B pairs, T tokens, I
images, O objects, F feature width, M swapped objects.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int64

from lxmert_dist.config.sections import ObjectivesConfig
from lxmert_dist.keyed import Purpose, integers, uniform
from lxmert_dist.schema import IGNORED, DataSpec, PairBatch


class MaskedTokens(NamedTuple):
    """``labels`` are the original ids at the chosen positions, ``IGNORED`` elsewhere."""

    token_ids: Int64[np.ndarray, "B T"]
    labels: Int64[np.ndarray, "B T"]


class MaskedObjects(NamedTuple):
    """``chosen`` is True where the feature was zeroed, swapped or kept as a target."""

    roi_features: Float[np.ndarray, "I O F"]
    chosen: Bool[np.ndarray, "I O"]


def mask_tokens(
    token_ids: Int64[np.ndarray, "B T"],
    lengths: Int64[np.ndarray, " B"],
    pair_ids: Int64[np.ndarray, " B"],
    spec: DataSpec,
    objectives: ObjectivesConfig,
    *,
    seed: int,
    epoch: int,
) -> MaskedTokens:
    """Hide word pieces: [MASK], a random piece of the whole vocabulary, or nothing.

    Args:
        token_ids: [CLS] first, [SEP] last, then padding.
        lengths: real tokens of each row, both special ones included.
        pair_ids: of the pairs, whichever sentence they were given.
        spec: gives ``mask_id`` and ``vocab_size``.
        objectives: gives the rates.
        seed: of the run.
        epoch: that keys the draws.
    """
    positions = np.arange(token_ids.shape[1])  # (T,)
    inner = (positions > 0) & (positions < lengths[:, None] - 1)  # (B, T)
    ids = pair_ids[:, None]
    chosen = inner & (
        uniform(seed, epoch, ids, Purpose.TOKEN_MASK, positions) < objectives.token_mask_rate
    )
    fate = uniform(seed, epoch, ids, Purpose.TOKEN_REPLACEMENT, positions)
    replaced, randomised = _split(
        chosen, fate, objectives.token_replace_fraction, objectives.token_random_fraction
    )
    drawn = integers(
        seed, epoch, ids, Purpose.TOKEN_RANDOM, positions, below=spec.vocab_size
    )  # (B, T)
    hidden = np.where(replaced, spec.mask_id, np.where(randomised, drawn, token_ids))
    return MaskedTokens(hidden, np.where(chosen, token_ids, IGNORED))


def mask_objects(
    batch: PairBatch,
    objectives: ObjectivesConfig,
    *,
    seed: int,
    epoch: int,
    empty: Callable[..., npt.NDArray[Any]] = np.empty,
) -> MaskedObjects:
    """Hide features: zeros, the feature of a donor, or nothing. Boxes stay.

    The donor is uniform over all objects of the image's donor pool; the image itself may be drawn,
    as in the released code. Only real objects are chosen, or given. The batch stays as it is;
    ``empty`` makes the array for the features, of a shape and a dtype.
    """
    objects = np.arange(batch.roi_features.shape[1])  # (O,)
    keys = batch.object_keys[:, None]
    chosen = (
        uniform(seed, epoch, keys, Purpose.OBJECT_MASK, objects) < objectives.object_mask_rate
    )  # (I, O)
    if batch.real_objects is not None:
        chosen &= batch.real_objects
    fate = uniform(seed, epoch, keys, Purpose.OBJECT_REPLACEMENT, objects)
    replaced, swapped = _split(
        chosen, fate, objectives.object_replace_fraction, objectives.object_random_fraction
    )
    features = empty(batch.roi_features.shape, batch.roi_features.dtype)
    features[...] = batch.roi_features
    features[replaced] = 0
    for number in np.unique(batch.pool_ids):
        pool = batch.donors[number]
        rows, columns = np.nonzero(swapped & (batch.pool_ids == number)[:, None])  # (M,) each
        if not rows.size:
            continue
        key = (seed, epoch, batch.object_keys[rows])
        if pool.num_boxes is None:
            images = integers(*key, Purpose.DONOR_IMAGE, columns, below=pool.num_images)
            donors = integers(*key, Purpose.DONOR_OBJECT, columns, below=len(objects))
        else:
            ends = np.cumsum(pool.num_boxes)
            donors = integers(*key, Purpose.DONOR_OBJECT, columns, below=ends[-1])  # in the pool
            images = np.searchsorted(ends, donors, side="right")
            donors -= (ends - pool.num_boxes)[images]
        features[rows, columns] = pool.gather(images, donors)
    return MaskedObjects(features, chosen)


def _split(
    chosen: Bool[np.ndarray, "N L"],
    fate: Float[np.ndarray, "N L"],
    replace_fraction: float,
    random_fraction: float,
) -> tuple[Bool[np.ndarray, "N L"], Bool[np.ndarray, "N L"]]:
    """The chosen that are replaced, and those that get a random stand-in."""
    replaced = chosen & (fate < replace_fraction)
    either = chosen & (fate < replace_fraction + random_fraction)
    return replaced, either & ~replaced
