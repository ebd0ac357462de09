"""A hash over what a step trained on, the same for any number of ranks and micro-batches."""

import numpy as np

from lxmert_dist import keyed
from lxmert_dist.keyed import U64, Ints, Purpose
from lxmert_dist.schema import MicroBatch, PretrainTargets


def identity(batch: MicroBatch) -> int:
    """Sum (mod 2^64) over pairs of a hash of the pair, its final tokens and its masked objects.

    A sum does not depend on the order of the pairs, nor on how they are cut over ranks; padding
    does not count. Two runs with equal identities at each step saw the same pairs with the same
    negatives and masks.
    """
    inputs = batch.inputs
    rows = _row_hash(np.where(inputs.attention_mask, inputs.padded_token_ids(), 0))
    if isinstance(batch.targets, PretrainTargets):
        masked = batch.targets.masked_objects[inputs.image_index]  # (B, O)
        rows = rows + _row_hash(masked.numpy().astype(np.int64) << 32)
    # A pair of several images has a row for each.
    rows = rows.reshape(len(batch.pair_ids), -1).sum(axis=1, dtype=np.uint64)
    pairs = keyed.bits(0, 0, batch.pair_ids.numpy(), Purpose.IDENTITY)
    return int(keyed.bits(0, 0, pairs ^ rows, Purpose.IDENTITY).sum(dtype=np.uint64))


def _row_hash(values: Ints) -> U64:
    """Hash of each row's non-zero values and their places."""
    hashed = keyed.bits(0, 0, values, Purpose.IDENTITY, np.arange(values.shape[1]))
    rows: U64 = np.where(values != 0, hashed, np.uint64(0)).sum(axis=1, dtype=np.uint64)
    return rows
