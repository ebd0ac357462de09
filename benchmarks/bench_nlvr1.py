"""NLVR v1 with and without pretraining: sentences by people, trained on *hidden*, tested on *dev*.

``uv run benchmarks/bench_nlvr1.py --store data/nlvr1`` (made as ``configs/pretrain/nlvr1.toml``
says) pretrains on people's sentences alone, and with what is made from the training images, and
fine-tunes from either and from scratch, all with each seed. What has finished is not run again. It
writes ``benchmarks/results/nlvr1.json`` and renders ``RESULTS.md``.
"""

import argparse
from collections import Counter
from pathlib import Path

from bench_easy_vqa import ROOT, accuracy, run
from lxmert_dist.store import open_store
from record import log_to_mlflow, new_record, write_record
from report import render

STARTS = {
    "scratch": (),
    "people": (
        'data.sources=["nlvr1"]',
        "data.curriculum=[]",
        "train.max_steps=0",
        "train.epochs=12",
        "objectives.mismatch_rate=0.5",  # and all else that is for counting, as published
        "objectives.matching_weight=1.0",
        "objectives.image_qa_weight=1.0",
        "objectives.token_mask_rate=0.15",
        "objectives.object_mask_rate=0.15",
    ),
    "statements": (),
}
"""What fine-tuning starts from, and what its pretraining changes in the shipped settings."""


def main() -> None:
    """Run all seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", default=str(ROOT / "data" / "nlvr1"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[9595])
    parser.add_argument("--directory", type=Path, default=ROOT / "runs" / "bench_nlvr1")
    arguments = parser.parse_args()
    record = new_record("nlvr1")
    record["command"] = "benchmarks/bench_nlvr1.py --seeds " + " ".join(map(str, arguments.seeds))
    record["majority"] = majority(arguments.store)
    record["runs"] = []
    for seed in arguments.seeds:
        row = {start: one(arguments, seed, start) for start in STARTS}
        record["runs"].append({"seed": seed, **row})
        write_record(record)
        render()
    log_to_mlflow(record, {f"{s}_seed{r['seed']}": r[s] for r in record["runs"] for s in STARTS})


def one(arguments: argparse.Namespace, seed: int, start: str) -> float:
    """Accuracy in percent on the test split."""
    directory = arguments.directory / str(seed)
    shared = [f"seed={seed}", f"data.store={arguments.store}"]
    init = "scratch"
    if start != "scratch":
        init = str(directory / start)
        run("pretrain.py", Path(init), *shared, *STARTS[start], config="pretrain/nlvr1.toml")
    tuned = directory / f"{start}_finetune"
    run("finetune.py", tuned, *shared, f"init={init}", config="finetune/nlvr1.toml")
    return accuracy(tuned)


def majority(uri: str) -> float:
    """Accuracy in percent of the most frequent answer of the test split."""
    split = open_store(uri).split("test")
    _, answers, _ = split.sentences.answers(range(split.num_pairs))
    return 100 * max(Counter(answers.tolist()).values()) / len(answers)


if __name__ == "__main__":
    main()
