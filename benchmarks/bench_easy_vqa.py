"""Accuracy on easy-VQA with and without pretraining, over seeds: what the README promises.

``uv run benchmarks/bench_easy_vqa.py --seeds 9595 1 2`` runs the shipped configurations with each
seed, writes ``benchmarks/results/easy_vqa.json`` after every one, and renders ``RESULTS.md``.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from lxmert_dist.config import FinetuneConfig, PretrainConfig, load_config
from lxmert_dist.ingest import matching_ceiling
from lxmert_dist.store import open_store
from lxmert_dist.stream.loader import index_pairs
from lxmert_dist.tracking import read_metrics
from record import log_to_mlflow, new_record, write_record
from report import render

ROOT = Path(__file__).parent.parent
LOSSES = ("masked_lm", "matching", "object_label", "attribute_label", "roi_feature", "image_qa")


def main() -> None:
    """Run all seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[9595, 1, 2])
    parser.add_argument("--directory", type=Path, default=ROOT / "runs" / "bench_easy_vqa")
    arguments = parser.parse_args()
    config = load_config(PretrainConfig, ROOT / "configs/pretrain/easy_vqa.toml")
    tuning = load_config(FinetuneConfig, ROOT / "configs/finetune/easy_vqa.toml")
    record = new_record("easy_vqa", config.fingerprint())
    record["references"] = tuning.references
    record["runs"] = []
    for seed in arguments.seeds:
        record["runs"].append(one_seed(seed, arguments.directory / str(seed)))
        record["matching_ceiling"] = ceiling(config)
        write_record(record)
        render()
        print(json.dumps(record["runs"][-1], indent=2))
    names = "accuracy_pretrained", "accuracy_scratch", "matching_accuracy"
    log_to_mlflow(record, {f"{n}_seed{r['seed']}": r[n] for r in record["runs"] for n in names})


def one_seed(seed: int, directory: Path) -> dict:
    """Pretrain, then fine-tune from that and from scratch."""
    pretrained = directory / "pretrain"
    seconds = run("pretrain.py", pretrained, f"seed={seed}")
    run("finetune.py", directory / "finetune", f"seed={seed}", f"init={pretrained}")
    run("finetune.py", directory / "scratch", f"seed={seed}", "init=scratch")
    log = read_metrics(pretrained / "metrics.jsonl")
    last = {name: value for _, metrics in log for name, value in metrics.items()}
    first = {name: value for _, metrics in reversed(log) for name, value in metrics.items()}
    return {
        "seed": seed,
        "pretraining": seconds,
        "pairs_per_second": last["train/pairs_per_second"],
        "data_wait_share": last["train/data_wait_share"],
        "held_out": {n: [first[f"valid/{n}"], last[f"valid/{n}"]] for n in LOSSES},
        "matching_accuracy": last["unmasked_captions/matching_accuracy"],
        "accuracy_pretrained": accuracy(directory / "finetune"),
        "accuracy_scratch": accuracy(directory / "scratch"),
    }


def run(script: str, directory: Path, *settings: str, config: str = "") -> str:
    """Run a command, unless it ended before; returns its headline."""
    line = [sys.executable, str(ROOT / "launch" / script), "--set", f"directory={directory}"]
    if config:
        line += ["--config", f"configs/{config}"]
    for setting in settings:
        line += ["--set", setting]
    done = subprocess.run(line, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return next(text for text in done.stdout.splitlines() if "steps" in text)


def accuracy(directory: Path) -> float:
    """Test accuracy in percent."""
    last = {k: v for _, m in read_metrics(directory / "metrics.jsonl") for k, v in m.items()}
    return 100 * last["test/accuracy"]


def ceiling(config: PretrainConfig) -> float:
    """What the held-out captions allow the matching task."""
    store = open_store(str(ROOT / config.data.store))
    split = store.split(config.data.validation_split)
    index = index_pairs(split, ("captions",))
    tokens, _ = split.sentences.tokens(
        index.pair_ids, max_tokens=config.data.max_tokens, cls_id=0, sep_id=0, pad_id=0
    )
    return matching_ceiling(tokens, index.image_rows)


if __name__ == "__main__":
    main()
