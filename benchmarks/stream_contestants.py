"""What ``bench_stream.py`` runs beside MosaicML: our loader, webdataset, and zarr over s3fs.

``stream_contestants.py NAME DIRECTORY``, see ``stream_samples.serve``.
"""

import random
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from stream_samples import MAX_TOKENS, Batch, Sample, Samples, collate, expand, serve

SEED = 9595


def ours(directory: Path, settings: dict) -> Iterator[Batch]:
    """The loader as training runs it, with a collation that passes the features on."""
    from lxmert_dist.stream.loader import Loader, LoaderSettings, TrainingSteps
    from lxmert_dist.stream.plan import PlanSettings

    store, split, index = opened(
        settings["store"], once=settings.get("once", False), backend=settings.get("backend")
    )
    batch, lanes = settings["batch"], settings["lanes"]
    plan = PlanSettings(lanes, settings["window_shards"], batch, settings.get("pairs_per_image", 1))
    reading = LoaderSettings(batch)
    epochs = 1 if settings.get("check") else settings.get("epochs", 1)
    prepare = collation(settings.get("collation", "features"), store, split, index)
    steps = TrainingSteps(split, index, plan, reading, prepare, SEED + settings["round"], epochs)
    with Loader(split, steps, reading) as loader:
        for step in loader:
            (micro,) = step.micro_batches
            yield _delivered(micro)


_STORES: dict = {}


def opened(uri: str, *, once: bool = False, backend: str | None = None) -> tuple:
    """A store, its split ``train`` and the pairs in it (``once``: the first pair of each image)."""
    from dataclasses import replace

    from lxmert_dist.store import ReadSettings, open_store
    from lxmert_dist.stream.loader import index_pairs

    if (uri, backend) not in _STORES:
        store = open_store(uri, ReadSettings(backend=backend or "fsspec"))
        split = store.split("train")
        _STORES[uri, backend] = store, split, index_pairs(split, ())
    store, split, index = _STORES[uri, backend]
    if once:
        first = np.unique(index.image_rows, return_index=True)[1]
        index = replace(index, pair_ids=index.pair_ids[first], image_rows=index.image_rows[first])
    return store, split, index


def collation(name: str, store, split, index):  # type: ignore[no-untyped-def]
    """``features``, which passes them on, or ``pretraining``, which masks and labels."""
    from lxmert_dist.config import ObjectivesConfig
    from lxmert_dist.schema import MicroBatch, PairBatch
    from lxmert_dist.tasks import pretraining_collate
    from lxmert_dist.tasks.inputs import model_inputs, read_tokens, to_tensor

    if name == "pretraining":
        return pretraining_collate(
            split.sentences,
            store.spec,
            ObjectivesConfig(),
            seed=SEED,
            max_tokens=MAX_TOKENS,
            candidates=index.pair_ids,
        )

    def features(pairs: PairBatch) -> MicroBatch:
        token_ids, lengths = read_tokens(split.sentences, pairs.pair_ids, store.spec, MAX_TOKENS)
        inputs = model_inputs(token_ids, lengths, pairs.roi_features, pairs)
        return MicroBatch(to_tensor(pairs.pair_ids), inputs, targets=pairs, counts={})

    return features


def _delivered(micro) -> Batch:  # type: ignore[no-untyped-def]
    """The labels of objects came beside the inputs, unless targets were made of them."""
    inputs, pairs = micro.inputs, micro.targets
    labelled = hasattr(pairs, "image_rows")
    return Batch(
        micro.pair_ids.numpy(),
        inputs.image_index.numpy(),
        inputs.roi_features.numpy(),
        _Lazy(partial(records_of, pairs)) if labelled else None,
        _Lazy(partial(_grid, inputs)),
    )


class _Lazy:
    """Rows that only a check needs in this form."""

    def __init__(self, make) -> None:  # type: ignore[no-untyped-def]
        self._make = make

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self._make())


def records_of(images) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Boxes, ids and scores of the objects, as bytes in the store's types; a row an image."""
    count = len(images.boxes)
    parts = (
        images.boxes.astype("<f4"),
        images.object_ids.astype("<i2"),
        images.object_scores.astype("<f2"),
        images.attribute_ids.astype("<i2"),
        images.attribute_scores.astype("<f2"),
    )
    return np.concatenate(
        [np.ascontiguousarray(part).reshape(count, -1).view(np.uint8) for part in parts], axis=1
    )


def _grid(inputs) -> np.ndarray:  # type: ignore[no-untyped-def]
    """(B, MAX_TOKENS), uint16."""
    tokens = inputs.padded_token_ids().numpy().astype(np.uint16)
    return np.pad(tokens, ((0, 0), (0, MAX_TOKENS - tokens.shape[1])))


def samples_of(store_uri: str) -> Samples:
    """What a store holds, its features read by zarr-python."""
    import zarr

    from lxmert_dist.tasks.inputs import read_tokens

    store, split, index = opened(store_uri)
    features = zarr.open_array(f"{store_uri}/train/roi_features", mode="r")[:]
    tokens, _ = read_tokens(split.sentences, index.pair_ids, store.spec, MAX_TOKENS)
    width = tokens.shape[1]
    return Samples(
        np.asarray(features),
        records_of(split),
        index.image_rows,
        np.pad(tokens, ((0, 0), (0, MAX_TOKENS - width))).astype(np.uint16),
    )


def web_epoch(directory: Path, settings: dict) -> Iterator[Batch]:
    """webdataset: shards in another order every epoch, samples through a buffer."""
    import webdataset as wds

    samples = Samples.load(directory)
    shape, dtype = samples.features.shape[1:], samples.features.dtype
    once, form = settings.get("once", False), settings["form"]

    def decode(parts: dict) -> Sample:
        tokens = np.frombuffer(parts["tokens"], np.uint16)
        return {
            "pair": int(parts["pair"]),
            "features": np.frombuffer(parts["features"], dtype).reshape(shape),
            "record": np.frombuffer(parts["record"], np.uint8),
            "tokens": tokens if form == "pair" else tokens.reshape(-1, MAX_TOKENS),
        }

    urls = settings.get("urls") or sorted(
        str(file) for file in (directory / f"web_{form}").glob("*.tar")
    )
    data = wds.WebDataset(
        urls, shardshuffle=len(urls), seed=settings["round"], workersplitter=_split
    )
    data = data.map(decode)
    if form == "image":
        data = data.compose(partial(_expanded, once=once))
    size = settings["window"]
    data = data.shuffle(size, initial=size, rng=random.Random(settings["round"]))
    data = data.batched(settings["batch"], collation_fn=collate)
    loader = wds.WebLoader(data, batch_size=None, num_workers=settings["workers"])
    yield from loader


def _split(urls):  # type: ignore[no-untyped-def]
    from webdataset.shardlists import split_by_worker

    return split_by_worker(urls)


def _expanded(images, once: bool) -> Iterator[Sample]:  # type: ignore[no-untyped-def]
    for image in images:
        pairs = expand(image)
        if once:
            yield next(pairs)
        else:
            yield from pairs


def zarr_epoch(directory: Path, settings: dict) -> Iterator[Batch]:
    """zarr-python over s3fs: each image by itself in a random order, or each chunk in turn."""
    import zarr

    array = zarr.open_array(settings["array"], mode="r")
    count = array.shape[0]
    if settings["form"] == "chunk":
        rows = array.chunks[0]
        for start in range(0, count, rows):
            features = array[start : start + rows]
            yield Batch(np.arange(start, start + len(features)), None, features, None, None)
        return
    order = np.random.default_rng(settings["round"]).permutation(count)
    for start in range(0, count, settings["batch"]):
        chosen = order[start : start + settings["batch"]]
        features = np.empty((len(chosen), *array.shape[1:]), array.dtype)
        for place, row in enumerate(chosen.tolist()):
            features[place] = array[row]
        yield Batch(chosen, None, features, None, None)


EPOCHS = {"ours": ours, "webdataset": web_epoch, "zarr": zarr_epoch}

if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    serve(partial(EPOCHS[sys.argv[1]], Path(sys.argv[2])))
