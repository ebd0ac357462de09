"""The sections of RESULTS.md about the model and its training."""

import statistics
from collections.abc import Iterable

from record import heading


def easy_vqa(record: dict) -> Iterable[str]:
    """The section of ``bench_easy_vqa.py``."""
    yield "## easy-VQA, with and without pretraining"
    yield ""
    yield "Command: `uv run benchmarks/bench_easy_vqa.py`. Accuracy in percent over all 9,673 test"
    yield "questions; from scratch has the same fine-tuning budget."
    yield ""
    yield heading(record)
    yield ""
    yield "| seed | pretrained | from scratch | held-out matching | pairs/s | waiting for data |"
    yield "|---|---|---|---|---|---|"
    for run in record["runs"]:
        yield (
            f"| {run['seed']} | {run['accuracy_pretrained']:.2f} | {run['accuracy_scratch']:.2f} "
            f"| {100 * run['matching_accuracy']:.1f} | {run['pairs_per_second']:.0f} "
            f"| {100 * run['data_wait_share']:.2f} % |"
        )
    with_, without = (
        [run[key] for run in record["runs"]] for key in ("accuracy_pretrained", "accuracy_scratch")
    )
    yield f"| mean | **{statistics.mean(with_):.2f}** | {statistics.mean(without):.2f} | | | |"
    yield ""
    references = ", ".join(f"{k} {v:.2f}" for k, v in record["references"].items())
    yield f"Beside them: {references}. What held-out captions allow the matching task"
    yield f"(a swapped caption can be true by chance): {100 * record['matching_ceiling']:.1f}."
    yield ""
    yield "Held-out losses, first and last, with fixed masks (seed of the first row):"
    yield ""
    yield "| loss | first | last |"
    yield "|---|---|---|"
    for name, (first, last) in record["runs"][0]["held_out"].items():
        yield f"| {name} | {first:.4f} | {last:.4f} |"
    yield ""


def model(record: dict) -> Iterable[str]:
    """The sections of ``bench_model.py``."""
    settings = record["settings"]
    answering = settings.get("task") == "answering"
    what = "fine-tuning step" if answering else "pretraining step"
    yield f"## A {what} against transformers, on {settings['device']}"
    yield ""
    if answering:
        yield "Questions with one right answer of 3,129, since `LxmertForQuestionAnswering` takes"
        yield "no soft scores (bar in fp32: 1.5)."
    yield f"Command: `uv run {record['command']}`. Whole steps (forward, backward, clipping,"
    yield "AdamW) of the published 9/5/5 model on the same pairs, alternating; *k* pairs share an"
    yield "image, of which the peer sees a copy each. The ratio is the median of the ratios of the"
    yield "rounds. *State* is weights, masters and moments, *step* what tensors take beside it at"
    yield "most, each measured in a process of its own; in brackets ours over the peer's, alone and"
    yield "with the state. Losses are compared without dropout, before the first update."
    yield "*Utilisation* is the share of what one large matrix product reaches on the machine."
    yield ""
    yield heading(record)
    yield ""
    yield (
        "| precision | k | | s a step | pairs/s | ratio | CPU-s | ratio by CPU | GFLOP "
        "| utilisation | state GiB | step GiB | process GiB | losses differ by |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    for row in record["rows"]:
        yield from _model_lines(row)
    yield ""


def _model_lines(row: dict) -> Iterable[str]:
    peer, ours = row["peer"], row["ours"]
    alone = ours["step_bytes"] / peer["step_bytes"]
    both = (ours["step_bytes"] + ours["state_bytes"]) / (peer["step_bytes"] + peer["state_bytes"])
    extra = {
        "transformers": ("", "", "", ""),
        "ours": (
            f"**{row['ratio']:.2f}**",
            f"{row['cpu_ratio']:.2f}",
            f" (**{alone:.2f}**, {both:.2f})",
            f"{row['loss_difference']:.1e}",
        ),
    }
    for name, part in (("transformers", peer), ("ours", ours)):
        ratio, cpu_ratio, memory, difference = extra[name]
        cells = [
            row["precision"],
            row["pairs_per_image"],
            name,
            f"{part['seconds']:.3f}",
            f"{part['pairs_per_second']:.2f}",
            ratio,
            f"{part['cpu_seconds']:.2f}",
            cpu_ratio,
            f"{part['flops'] / 1e9:.0f}",
            f"{part['utilisation']:.0%}",
            f"{part['state_bytes'] / 2**30:.2f}",
            f"{part['step_bytes'] / 2**30:.2f}{memory}",
            f"{part['resident_bytes'] / 2**30:.2f}",
            difference,
        ]
        yield "| " + " | ".join(str(cell) for cell in cells) + " |"


def grouping(record: dict) -> Iterable[str]:
    """The section of ``bench_grouping.py``."""
    yield "## Image grouping at equal pairs visited, on easy-VQA"
    yield ""
    yield "Command: `uv run benchmarks/bench_grouping.py`: the quickstart with"
    yield "`data.pairs_per_image = k`. Held-out losses at the end, with fixed masks, and accuracies"
    yield "in percent. The total is the plain sum, as the quickstart weighs them."
    yield ""
    yield heading(record)
    yield ""
    names = list(record["runs"][0]["held_out"])
    yield "| k | seed | " + " | ".join(names) + " | total | image QA | matching of captions |"
    yield "|---|---|" + "---|" * (len(names) + 3)
    groups = sorted({run["pairs_per_image"] for run in record["runs"]})
    for group in groups:
        runs = [run for run in record["runs"] if run["pairs_per_image"] == group]
        for run in runs:
            yield _grouping_line(group, str(run["seed"]), [run])
        yield _grouping_line(group, "**mean**", runs)
    yield ""


def _grouping_line(group: int, label: str, runs: list[dict]) -> str:
    """The means over some runs."""

    def mean(values: Iterable[float]) -> float:
        return statistics.mean(values)

    losses = [mean(run["held_out"][n] for run in runs) for n in runs[0]["held_out"]]
    accuracies = [100 * mean(run["accuracy"][n] for run in runs) for n in runs[0]["accuracy"]]
    cells = [str(group), label, *(f"{loss:.4f}" for loss in (*losses, sum(losses)))]
    cells += [f"{accuracy:.2f}" for accuracy in accuracies]
    return "| " + " | ".join(cells) + " |"


def training_loop(record: dict) -> Iterable[str]:
    """The section of ``bench_loop.py``."""
    settings = record["settings"]
    yield "## The training loop against a bare one, and a checkpoint against torch.save"
    yield ""
    yield "Command: `uv run benchmarks/bench_loop.py`. Steps of the published 9/5/5 model,"
    yield f"{settings['batch']} pairs, {settings['precision']}: ours with everything on (DeepSpeed,"
    yield "streaming, metrics and MLflow, ledger, checkpoints) and a bare PyTorch loop over batches"
    yield "in memory, in processes that take turns; ratios are medians over rounds. The mean counts"
    yield f"the steps beside which a checkpoint is written too, one in {settings['every']}. A stall"
    yield "is how long training stood still for a checkpoint of weights and moments."
    yield ""
    yield heading(record)
    yield ""
    yield "| | s a step | CPU-s a step | mean s a step | stall of a checkpoint, s |"
    yield "|---|---|---|---|---|"
    pauses = {"bare": record["saves"], "ours": record["stalls"]}
    for name in ("bare", "ours"):
        part = record[name]
        yield (
            f"| {name} | {part['seconds']:.3f} | {part['cpu_seconds']:.3f} "
            f"| {part['mean_seconds']:.3f} | {statistics.median(pauses[name]):.3f} |"
        )
    yield (
        f"| ratio | **{record['ratio']:.3f}** | {record['cpu_ratio']:.3f} "
        f"| {record['mean_ratio']:.3f} | **{record['stall_ratio']:.4f}** |"
    )
    yield ""
