"""How much data a run has: of its store, or as much as was published."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from lxmert_dist import keyed
from lxmert_dist.cluster.work import Text
from lxmert_dist.config import PretrainConfig
from lxmert_dist.ingest import synthetic
from lxmert_dist.ingest.amounts import SOURCES
from lxmert_dist.keyed import Purpose
from lxmert_dist.schema import DataSpec
from lxmert_dist.store import Split, open_store
from lxmert_dist.stream.loader import index_pairs
from lxmert_dist.stream.passes import pairs_by_source
from lxmert_dist.stream.plan import PairIndex

PUBLISHED_IMAGES = 180_000
_PUBLISHED_SPEC = DataSpec(30522, 0, 101, 102, 103, 36, 2048, 1600, 400, 9500)
_IMAGES_PER_SHARD = 64
_SAMPLE = 20_000
"""Pairs whose sentences are looked at."""
_OPENING_BYTES = 0.76e9
"""Sentences and small arrays of both splits, as the synthetic store of this size has them
(benchmarks/RESULTS.md: 27.3 GB, of which features 26.54)."""


@dataclass(frozen=True)
class Amounts:
    """What a planner needs to know of the data."""

    origin: str
    """Where these numbers are from."""
    spec: DataSpec
    index: PairIndex
    by_source: Mapping[str, int]
    """Pairs."""
    shard_bytes: Int64[np.ndarray, " D"]
    opening_bytes: float
    """What every rank reads when it starts."""
    opening_objects: int
    text: Text


def of_store(config: PretrainConfig) -> Amounts:
    """Of the store at ``data.store``; its features are not read.

    Raises:
        StoreError: there is none, or it is out of reach.
        ConfigError: it has no such split or sources.
    """
    data = config.data
    store = open_store(data.store)
    split = store.split(data.train_split)
    index = index_pairs(split, data.sources)
    tables = store.manifest.splits
    opened = [tables[name] for name in {data.train_split, data.validation_split} & set(tables)]
    others = [
        part
        for entry in opened
        for part in (entry.sentences, entry.image_ids, *entry.arrays.values())
    ]
    return Amounts(
        origin=f"the store {data.store}",
        spec=store.spec,
        index=index,
        by_source=pairs_by_source(split, data.sources),
        shard_bytes=np.array([s.chunk.num_bytes for s in tables[data.train_split].shards]),
        opening_bytes=sum(part.num_bytes for part in others),
        opening_objects=len(others),
        text=_text(split, index, store.spec, data.max_tokens),
    )


def _text(split: Split, index: PairIndex, spec: DataSpec, max_tokens: int) -> Text:
    """Of some pairs, evenly spread over all."""
    pairs = index.pair_ids[:: -(-len(index) // _SAMPLE)]
    _, lengths = split.sentences.tokens(
        pairs, max_tokens=max_tokens, cls_id=spec.cls_id, sep_id=spec.sep_id, pad_id=spec.pad_id
    )
    offsets, *_ = split.sentences.answers(pairs)
    return Text(float(lengths.mean()), float((np.diff(offsets) > 0).mean()))


def published(num_images: int = PUBLISHED_IMAGES) -> Amounts:
    """As much as in table 1 of the paper, or a part of it, drawn as ``ingest.synthetic`` does.

    Without the validation images. Nothing is read.
    """
    made = synthetic.SyntheticImages(0, num_objects=1, feature_dim=1)
    images = np.arange(num_images)
    of_coco = np.flatnonzero(made.groups(images) < 2)
    valid = of_coco[: max(1, round(num_images * synthetic.VALID_SHARE))]
    counts = made.counts(np.setdiff1d(images, valid))  # (N, 5)
    counts = counts[keyed.permutation(len(counts), 0, 0, Purpose.STORE_ORDER)]
    rows = np.repeat(np.arange(len(counts), dtype=np.int32), counts.sum(axis=1))
    spec = _PUBLISHED_SPEC
    image_bytes = 2 * spec.num_objects * spec.feature_dim
    firsts = np.arange(0, len(counts), _IMAGES_PER_SHARD)
    sizes = np.minimum(len(counts) - firsts, _IMAGES_PER_SHARD) * image_bytes
    by_source = dict(zip(SOURCES, counts.sum(axis=0).tolist(), strict=True))
    pairs = sum(by_source.values())
    pieces = sum(by_source[s] * n for s, n in zip(SOURCES, synthetic.PIECES, strict=True)) / pairs
    questions = sum(by_source[name] for name in SOURCES[SOURCES.index("vqa") :])
    return Amounts(
        origin=f"the published amounts ({num_images:,} images, table 1 of the paper)",
        spec=spec,
        index=PairIndex(np.arange(len(rows), dtype=np.int32), rows, _IMAGES_PER_SHARD),
        by_source=by_source,
        shard_bytes=sizes,
        opening_bytes=_OPENING_BYTES * num_images / PUBLISHED_IMAGES,
        opening_objects=16,
        text=Text(pieces + 2, synthetic.ANSWERED * questions / pairs),
    )
