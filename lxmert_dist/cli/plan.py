"""The command ``launch/plan.py``: what an epoch will read, hold and repeat, before it is run.

``python -m lxmert_dist.stream.plan`` is the same.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lxmert_dist.cli.command import frame, run_command
from lxmert_dist.config import DataConfig, RunConfig, TrainConfig
from lxmert_dist.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from lxmert_dist.store import Split
    from lxmert_dist.stream.simulate import EpochLoad

READ_BAR = 1.03
"""What the bytes read in an epoch over those in the store should stay under."""

DESCRIPTION = """\
Simulate an epoch of a store, without reading its features.

For every rank: steps, pairs, bytes and objects read, the largest window, copies of an image beyond
its first in a step, and bytes over the mean of all ranks. The last row is all ranks together, with
repeats counted over the global batch."""

EXAMPLES = """\
examples:
  python launch/plan.py s3://bucket/lxmert --world-size 64 --lanes 64
  python launch/plan.py data/easy_vqa --world-size 2 --window 4 --pairs-per-image 4 --plot plan.png
  python launch/plan.py s3://bucket/lxmert --weights vg=0.2 vqa=0 --epoch 3
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_plan, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    data, train, run = DataConfig.model_fields, TrainConfig.model_fields, RunConfig.model_fields
    parser = frame(DESCRIPTION, EXAMPLES)
    parser.add_argument("uri", metavar="URI", help="path or fsspec URI of the store")
    counts = {
        "--world-size": (1, "number of ranks; must divide the lanes"),
        "--lanes": (data["lanes"].default, "data.lanes; must divide the batch"),
        "--window": (data["window_shards"].default, "data.window_shards"),
        "--batch": (train["global_batch_size"].default, "train.global_batch_size"),
        "--pairs-per-image": (data["pairs_per_image"].default, "data.pairs_per_image"),
        "--read-ahead": (data["read_ahead_steps"].default, "data.read_ahead_steps"),
    }
    for name, (default, text) in counts.items():
        parser.add_argument(
            name, type=int, default=default, metavar="N", help=f"{text} (default {default})"
        )
    parser.add_argument("--split", default=data["train_split"].default, help="data.train_split")
    parser.add_argument(
        "--sources", nargs="+", default=(), metavar="NAME", help="data.sources (default: all)"
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        default=(),
        metavar="NAME=SHARE",
        help="data.source_weights, or a stage of data.curriculum (default: 1 for all)",
    )
    seed = run["seed"].default
    parser.add_argument("--seed", type=int, default=seed, metavar="N", help=f"(default {seed})")
    parser.add_argument("--epoch", type=int, default=0, metavar="N", help="from 0 (default 0)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it as .png, .pdf or .svg")
    return parser


def _plan(arguments: argparse.Namespace) -> None:
    _check(arguments)
    import numpy as np

    from lxmert_dist.store import open_store
    from lxmert_dist.stream.loader import index_pairs
    from lxmert_dist.stream.passes import pairs_by_source, pairs_of_pass, plan_passes
    from lxmert_dist.stream.plan import PlanSettings
    from lxmert_dist.stream.simulate import simulate_epoch

    stages = [(0, _weights(arguments.weights))]
    store = open_store(arguments.uri)
    split = store.split(arguments.split)
    entry = store.manifest.splits[arguments.split]
    settings = PlanSettings(
        arguments.lanes, arguments.window, arguments.batch, arguments.pairs_per_image
    )
    sources = tuple(arguments.sources)
    index = index_pairs(split, sources)
    amounts = pairs_by_source(split, sources)
    *_, visited = plan_passes(amounts, stages, settings, epochs=arguments.epoch + 1)
    load = simulate_epoch(
        pairs_of_pass(split, index, visited, arguments.seed),
        settings,
        np.array([shard.chunk.num_bytes for shard in entry.shards]),
        seed=arguments.seed,
        epoch=arguments.epoch,
        world_size=arguments.world_size,
        read_ahead_steps=arguments.read_ahead,
    )
    others = [entry.sentences, entry.image_ids, *entry.arrays.values()]
    for line in [*_table(load), "", *_summary(split, load, sum(e.num_bytes for e in others))]:
        print(line)  # noqa: T201
    if arguments.plot is not None:
        from lxmert_dist.cli.plan_plot import draw

        draw(load, arguments.plot)
        print(f"drawn       {arguments.plot}")  # noqa: T201


def _weights(given: Sequence[str]) -> dict[str, float]:
    weights = {}
    for each in given:
        name, _, text = each.rpartition("=")
        try:
            weights[name] = float(text)
        except ValueError:
            weights[name] = -1.0
        if not name or not 0 <= weights[name] <= 1:
            raise ConfigError(f"--weights {each}: must be NAME=SHARE, with a share from 0 to 1")
    return weights


def _check(arguments: argparse.Namespace) -> None:
    """What a run would refuse, before anything is read."""
    least = {"seed": 0, "epoch": 0, "read_ahead": 1}
    names = ("world_size", "lanes", "window", "batch", "pairs_per_image", *least)
    for name in names:
        if getattr(arguments, name) < least.get(name, 1):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} counts from {least.get(name, 1)}")
    if arguments.batch % arguments.lanes:
        raise ConfigError(f"--lanes {arguments.lanes} must divide --batch {arguments.batch}")
    if arguments.plot is not None and arguments.plot.suffix not in (".png", ".pdf", ".svg"):
        raise ConfigError(f"--plot {arguments.plot} must end in .png, .pdf or .svg")


def _table(load: "EpochLoad") -> Iterator[str]:
    yield (
        f"{'rank':>5}{'steps':>9}{'pairs':>12}{'images':>12}{'MB read':>12}{'objects':>9}"
        f"{'window MB':>11}{'repeats a step: mean':>22}{'most':>6}{'imbalance':>11}"
    )
    mean = load.bytes_read / len(load.ranks)
    for rank, own in enumerate(load.ranks):
        window, share = own.window_bytes, own.bytes_read / mean
        counts = (own.pairs, own.images, own.bytes_read, own.objects_read)
        yield _row(str(rank), load.steps, counts, window, own.repeats, share)
    counts = (load.pairs, load.images, load.bytes_read, load.objects_read)
    yield _row("all", load.steps, counts, load.window_bytes, load.repeats, load.imbalance)


def _row(
    name: str,
    steps: int,
    counts: tuple[int, int, int, int],
    window_bytes: "np.ndarray",
    repeats: "np.ndarray",
    imbalance: float,
) -> str:
    pairs, images, bytes_read, objects = counts
    return (
        f"{name:>5}{steps:>9,}{pairs:>12,}{images:>12,}{bytes_read / 1e6:>12,.1f}{objects:>9,}"
        f"{window_bytes.max() / 1e6:>11,.1f}{repeats.mean():>22.3f}{repeats.max():>6}"
        f"{imbalance:>11.3f}"
    )


def _summary(split: "Split", load: "EpochLoad", opening_bytes: int) -> Iterator[str]:
    every = load.pairs + load.left_out
    verdict = "at most" if load.read_ratio <= READ_BAR else "ABOVE"
    burst = max(int(own.reads[1:].max(initial=0)) for own in load.ranks)
    yield (
        f"store       {split.num_images:,} images, {every:,} pairs to visit, {split.num_shards:,} "
        f"feature objects of {load.stored_bytes / 1e6:,.1f} MB"
    )
    yield (
        f"read once   {load.read_ratio:.4f} = bytes read / bytes in the store; {verdict} {READ_BAR}"
    )
    yield f"left out    {load.left_out:,} pairs ({load.left_out / every:.3%}); other epochs, others"
    yield f"burst       a rank asks for {burst} objects at most in one step, after its first"
    yield f"besides     each rank reads {opening_bytes / 1e6:,.1f} MB once, when it opens the split"


if __name__ == "__main__":
    raise SystemExit(main())
