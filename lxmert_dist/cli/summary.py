"""What a command says at its end."""

import shlex
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lxmert_dist.cli.command import command_line
from lxmert_dist.config import FinetuneConfig, PretrainConfig, RunConfig
from lxmert_dist.ingest import matching_ceiling
from lxmert_dist.store import open_store
from lxmert_dist.stream.loader import index_pairs
from lxmert_dist.tasks import PretrainingTask
from lxmert_dist.tracking import read_metrics, ui_command
from lxmert_dist.tracking.figures import Log, first_and_last, speed
from lxmert_dist.train.run import Outcome


def pretraining_summary(config: PretrainConfig, outcome: Outcome) -> str:
    """Losses first and last, accuracies, speed, and where to go on."""
    log = read_metrics(Path(config.directory) / "metrics.jsonl")
    lines = [_headline("pretraining", config, outcome), "", *_losses(log), ""]
    for source, accuracy, ceiling in _matching(config, outcome):
        lines.append(
            f"matching accuracy on held-out {source}: {accuracy:.1%} (the data allow {ceiling:.1%})"
        )
    lines += _speed(log, outcome)
    lines.append(f"fine-tune:  {command_line('finetune')} --set init={config.checkpoint_uri}")
    lines += _places(config, outcome)
    return "\n".join(lines)


def finetuning_summary(config: FinetuneConfig, outcome: Outcome) -> str:
    """Test accuracy beside the references, speed, and where to look."""
    log = read_metrics(Path(config.directory) / "metrics.jsonl")
    lines = [_headline("fine-tuning", config, outcome), ""]
    if config.test_split:
        lines += [*_accuracies(config, outcome), ""]
    return "\n".join([*lines, *_speed(log, outcome), *_places(config, outcome)])


def _accuracies(config: FinetuneConfig, outcome: Outcome) -> Iterable[str]:
    split = open_store(config.data.store).split(config.test_split)
    questions = len(index_pairs(split, config.data.sources))
    accuracy = 100 * outcome.final[f"{config.test_split}/accuracy"]
    how = "from scratch" if config.init == "scratch" else f"from {config.init}"
    rows = {f"this run, {how}": accuracy, **config.references}
    width = max(map(len, rows))
    yield f"accuracy on all {questions:,} questions of split {config.test_split}, in percent"
    yield from (f"  {name:<{width}}  {value:6.2f}" for name, value in rows.items())


def _headline(what: str, config: RunConfig, outcome: Outcome) -> str:
    resumed = f", resumed from step {outcome.resumed_from}" if outcome.resumed_from else ""
    if outcome.resumed_from == outcome.steps:
        resumed = "; it was complete already, and nothing is left to train"
    return (
        f"{what} {config.name}: {outcome.steps} steps, {outcome.parameters:,} parameters, "
        f"{outcome.seconds:.0f} s{resumed}"
    )


def _losses(log: Log) -> Iterable[str]:
    """A table of the six losses, on training pairs and on held-out pairs with fixed masks."""
    yield f"{'loss':<16}{'train first':>12}{'last':>9}{'held-out first':>16}{'last':>9}"
    for name in PretrainingTask.loss_names:
        cells = [*first_and_last(log, f"train/{name}"), *first_and_last(log, f"valid/{name}")]
        texts = ["-" if c is None else f"{c:.4f}" for c in cells]
        yield f"{name:<16}{texts[0]:>12}{texts[1]:>9}{texts[2]:>16}{texts[3]:>9}"


def _matching(config: PretrainConfig, outcome: Outcome) -> Iterable[tuple[str, float, float]]:
    """Sources whose sentences say something of their image: accuracy, and what can be reached.

    Questions say nothing of the picture, so only sources without answers are listed.
    """
    store = open_store(config.data.store)
    split = store.split(config.data.validation_split)
    for source in split.sentences.sources:
        key = f"unmasked_{source}/matching_accuracy"
        asks = f"unmasked_{source}/image_qa" in outcome.final
        if key in outcome.final and not asks:
            index = index_pairs(split, (source,))
            tokens, _ = split.sentences.tokens(
                index.pair_ids,
                max_tokens=config.data.max_tokens,
                cls_id=store.spec.cls_id,
                sep_id=store.spec.sep_id,
                pad_id=store.spec.pad_id,
            )
            rows = index.image_rows.astype(np.int64)
            yield source, outcome.final[key], matching_ceiling(tokens, rows)


def _speed(log: Log, outcome: Outcome) -> Iterable[str]:
    found = speed(log)
    if found:
        yield (
            f"{found.pairs_per_second:.0f} pairs/s, {found.data_wait_share:.2%} of the time "
            f"waiting for data, {outcome.peak_memory_bytes / 2**30:.2f} GiB of memory at most"
        )


def _places(config: RunConfig, outcome: Outcome) -> Iterable[str]:
    yield f"checkpoint: {outcome.checkpoint}"
    yield f"report:     {command_line('report')} {shlex.quote(config.directory)}"
    if config.tracking.mlflow and find_spec("mlflow"):
        yield f"curves:     {ui_command(config.tracking, Path(config.directory))}"
