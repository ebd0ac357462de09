"""Image grouping judged by its losses: k pairs an image, at equal pairs visited, on easy-VQA.

``uv run benchmarks/bench_grouping.py`` pretrains the quickstart for each k and seed, writes
``benchmarks/results/grouping.json`` after every run, and renders ``RESULTS.md``. A run that was
complete before is not repeated.
"""

import argparse
from pathlib import Path

from bench_easy_vqa import LOSSES, ROOT, run
from lxmert_dist.config import PretrainConfig, load_config
from lxmert_dist.tracking import read_metrics
from record import log_to_mlflow, new_record, write_record
from report import render

ACCURACIES = ("valid/image_qa_accuracy", "unmasked_captions/matching_accuracy")


def main() -> None:
    """Run every k with every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[9595, 1, 2])
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--directory", type=Path, default=ROOT / "runs" / "bench_grouping")
    arguments = parser.parse_args()
    config = load_config(PretrainConfig, ROOT / "configs/pretrain/easy_vqa.toml")
    record = new_record("grouping", config.fingerprint())
    record["runs"] = []
    for seed in arguments.seeds:
        for group in arguments.groups:
            directory = arguments.directory / f"k{group}-seed{seed}"
            record["runs"].append(one_run(seed, group, directory))
            write_record(record)
            render()
    log_to_mlflow(record, figures(record["runs"]))


def one_run(seed: int, group: int, directory: Path) -> dict:
    """Pretrain once; held-out losses with fixed masks at the end, and the speed."""
    run("pretrain.py", directory, f"seed={seed}", f"data.pairs_per_image={group}")
    log = read_metrics(directory / "metrics.jsonl")
    last = {name: value for _, metrics in log for name, value in metrics.items()}
    return {
        "seed": seed,
        "pairs_per_image": group,
        "held_out": {name: last[f"valid/{name}"] for name in LOSSES},
        "accuracy": {name: last[name] for name in ACCURACIES},
        "pairs_per_second": last["train/pairs_per_second"],
    }


def figures(runs: list[dict]) -> dict[str, float]:
    """The numbers by name, for MLflow."""
    return {
        f"k{run['pairs_per_image']}_seed{run['seed']}_{name}": value
        for run in runs
        for name, value in run["held_out"].items()
    }


if __name__ == "__main__":
    main()
