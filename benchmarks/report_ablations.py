"""The sections of RESULTS.md about what pretraining is worth: the ablation study, and NLVR v1."""

import statistics
from collections.abc import Iterable

from record import heading


def ablations(record: dict) -> Iterable[str]:
    """The section of ``bench_ablations.py``."""
    study = record["study"]
    tasks = list(dict.fromkeys(task for row in record["rows"] for task in row["published"]))
    seeds = [str(seed) for seed in study["seeds"]]
    yield "## What each task of pretraining is worth on easy-VQA"
    yield ""
    yield f"Command: `uv run {record['command']}`, rows of `{study['file']}` (with"
    yield f"`{'`, `'.join(study['pretrain_set'])}` for all). Accuracy in percent over all 9,673"
    yield "test questions after one epoch of fine-tuning, a column a seed; beside it what the"
    yield "paper's tables say of that row on photographs. *Differs* is the mean difference from"
    yield "all tasks with the same seed, and the standard error of that mean."
    yield ""
    yield heading(record)
    yield ""
    columns = ["table", "row", *seeds, "mean", "differs", *(f"paper, {task}" for task in tasks)]
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    base = next(row for row in record["rows"] if row["name"] == "pretrain, all tasks")["scores"]
    for row in record["rows"]:
        cells = [row["table"], row["name"], *(f"{score:.2f}" for score in row["scores"])]
        cells += [f"**{statistics.mean(row['scores']):.2f}**", _difference(row["scores"], base)]
        cells += [f"{row['published'][t]:.1f}" if t in row["published"] else "" for t in tasks]
        yield "| " + " | ".join(cells) + " |"
    yield ""
    if "finding" in record:
        yield record["finding"]
        yield ""


def _difference(scores: list[float], base: list[float]) -> str:
    if scores is base:
        return ""
    differences = [ours - other for ours, other in zip(scores, base, strict=True)]
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.mean(differences):+.2f} ± {error:.2f}"


def nlvr1(record: dict) -> Iterable[str]:
    """The section of ``bench_nlvr1.py``."""
    yield "## NLVR v1, with and without pretraining"
    yield ""
    yield f"Command: `uv run {record['command']}`. Sentences by people, true or false of an image:"
    yield "trained on *hidden* (less a tenth of its sentences), tested on all 5,934 pairs of *dev*;"
    yield "accuracy in percent. *People*: pretrained on the same sentences; *with statements*: and"
    yield "on questions and statements made from what the training images show."
    yield ""
    yield heading(record)
    yield ""
    yield "| seed | from scratch | people | with statements |"
    yield "|---|---|---|---|"
    starts = ("scratch", "people", "statements")
    for run in record["runs"]:
        yield f"| {run['seed']} | " + " | ".join(f"{run[s]:.2f}" for s in starts) + " |"
    if len(record["runs"]) > 1:
        means = [statistics.mean(run[s] for run in record["runs"]) for s in starts]
        yield "| mean | " + " | ".join(f"**{mean:.2f}**" for mean in means) + " |"
    yield ""
    yield f"Always the most frequent answer: {record['majority']:.2f}."
    yield ""
    if "finding" in record:
        yield record["finding"]
        yield ""
