"""Trained detectors: what they find, and easy-VQA with one in the quickstart's place.

``uv run benchmarks/bench_detector.py --nlvr1 DIR`` trains by the shipped ``nlvr1.toml`` (on
DIR/hidden.zip, scored on DIR/dev.zip) and ``easy_vqa.toml`` of ``configs/detector``, prepares
easy-VQA by the latter, pretrains and fine-tunes the shipped configurations on it, and writes
``benchmarks/results/detector.json``. What a run before left in ``--directory`` is not done again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from bench_easy_vqa import accuracy
from lxmert_dist.config import load_config
from lxmert_dist.config.detector_training import TrainableDetectorConfig
from lxmert_dist.store import has_store
from lxmert_dist.tracking import read_metrics
from record import log_to_mlflow, new_record, write_record
from report import render

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Train, prepare, pretrain, fine-tune."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nlvr1", type=Path, required=True, metavar="DIR")
    parser.add_argument("--directory", type=Path, default=ROOT / "runs" / "bench_detector")
    parser.add_argument(
        "--epochs", type=int, default=6, help="of pretraining (default 6, as shipped)"
    )
    arguments = parser.parse_args()
    directory = arguments.directory.resolve()
    record = new_record("detector")
    record["detectors"] = {
        "nlvr1": train("nlvr1", directory, "--data", arguments.nlvr1.resolve()),
        "easy_vqa": train("easy_vqa", directory),
    }
    record["epochs"] = arguments.epochs
    record["accuracy"] = downstream(directory, arguments.epochs)
    write_record(record)
    render()
    precision = {f"{name} map50": of["valid"]["map50"] for name, of in record["detectors"].items()}
    log_to_mlflow(record, {"accuracy": record["accuracy"], **precision})
    print(json.dumps(record, indent=1))


def train(name: str, directory: Path, *more: object) -> dict:
    """Train a detector; returns its figures on the images that are held out."""
    file = ROOT / "configs" / "detector" / f"{name}.toml"
    training = load_config(TrainableDetectorConfig, file).training
    log = directory / name / "metrics.jsonl"
    if not any(s == training.steps and "valid/map50" in m for s, m in read_metrics(log)):
        run("train_detector.py", "--config", file, "--out", directory / name, *more)
    figures = {key: value for _, metrics in read_metrics(log) for key, value in metrics.items()}
    return {
        "steps": training.steps,
        "images": training.steps * training.batch_images,
        "images_per_second": figures["train/images_per_second"],
        "bytes": (directory / name / "model.safetensors").stat().st_size,
        "valid": {k.removeprefix("valid/"): v for k, v in figures.items() if "valid/" in k},
    }


def downstream(directory: Path, epochs: int) -> float:
    """Accuracy in percent on easy-VQA's test questions, with pretraining, on detected regions."""
    store = directory / "store"
    if not has_store(str(store)):
        detector = directory / "easy_vqa"
        run("prepare.py", "easy-vqa", "--detector", detector, "--out", store)
    own = {"pretrain": f"train.epochs={epochs}", "finetune": f"init={directory / 'pretrain'}"}
    for script, setting in own.items():
        settings = f"directory={directory / script}", f"data.store={store}", setting
        run(f"{script}.py", *(word for setting in settings for word in ("--set", setting)))
    return accuracy(directory / "finetune")


def run(script: str, *words: object) -> None:
    """Run a command of ``launch/``."""
    line = [sys.executable, str(ROOT / "launch" / script), *map(str, words)]
    subprocess.run(line, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
