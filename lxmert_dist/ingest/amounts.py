"""How much there is of what in a store, beside what the paper's pretraining data have."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int64

from lxmert_dist.store import Split, Store

SOURCES = ("mscoco", "vg", "vqa", "gqa", "visual7w")
"""COCO captions, VG region descriptions, and the questions of VQA, GQA and VG."""

GROUPS = ("COCO - VG", "COCO and VG", "VG - COCO")

_PAPER = (
    ("72K", "361K", "-", "387K", "-", "-", "-", "0.75M"),
    ("51K", "256K", "2.54M", "271K", "515K", "724K", "-", "4.30M"),
    ("57K", "-", "2.85M", "-", "556K", "718K", "-", "4.13M"),
    ("180K", "617K", "5.39M", "658K", "1.07M", "1.44M", "-", "9.18M"),
)
"""Images of every group and of all, and their pairs: table 1, as printed there."""

_OF_VG = ("vg", "gqa", "visual7w")
_HEADINGS = ("images", "COCO-Cap", "VG-Cap", "VQA", "GQA", "VG-QA", "other", "all")


def count_amounts(split: Split) -> Int64[np.ndarray, "3 7"]:
    """Images, pairs by source, and pairs of other sources, for each group of images.

    An image whose id begins with ``COCO_`` is of COCO; one of them with a sentence that VG or GQA
    gave is of both.
    """
    table = split.sentences
    of_vg = np.isin(table.sources, _OF_VG)[table.source_ids]
    in_vg = np.bincount(table.image_rows, of_vg, minlength=split.num_images) > 0
    in_coco = np.array([image_id.startswith("COCO_") for image_id in split.image_ids])
    group = np.where(~in_coco, 2, np.where(in_vg, 1, 0))  # (N,)
    columns = [SOURCES.index(s) if s in SOURCES else len(SOURCES) for s in table.sources]
    column = np.array(columns, np.int64)[table.source_ids]
    width = len(SOURCES) + 1
    cells = np.bincount(group[table.image_rows] * width + column, minlength=3 * width)
    images = np.bincount(group, minlength=3)
    return np.concatenate([images[:, None], cells.reshape(3, width)], axis=1)


def show_amounts(store: Store) -> Iterator[str]:
    """The lines of a table: found over all splits, and below what the paper has."""
    found = sum(
        (count_amounts(store.split(name)) for name in store.manifest.splits),
        np.zeros((3, len(SOURCES) + 2), np.int64),
    )
    yield _line("", "", _HEADINGS)
    rows = np.concatenate([found, found.sum(axis=0, keepdims=True)])
    for name, cells, paper in zip((*GROUPS, "total"), rows, _PAPER, strict=True):
        yield _line(name, "here", _cells(cells))
        yield _line("", "paper", paper)


def _cells(found: Int64[np.ndarray, " 7"]) -> list[str]:
    return [f"{n:,}" if n else "-" for n in [*found.tolist(), int(found[1:].sum())]]


def _line(name: str, which: str, cells: Sequence[str]) -> str:
    return f"{name:<14}{which:<6}" + "".join(f"{cell:>11}" for cell in cells)
