"""One JSON a benchmark: what was measured, where, when, and with what."""

import datetime
import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def new_record(name: str, fingerprint: str = "", *, device: str = "cpu") -> dict:
    """Date, commit, configuration (where there is one), machine and versions."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "name": name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "fingerprint": fingerprint,
        "machine": (
            f"{platform.machine()}, {os.cpu_count()} cores, {_accelerator(device)}, "
            f"OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}"
        ),
        "versions": {name: _version(name) for name in ("torch", "transformers", "deepspeed")},
    }


def _accelerator(device: str) -> str:
    if device == "cpu":
        return "no GPU"
    import torch

    return torch.cuda.get_device_name()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def log_to_mlflow(record: dict, figures: dict[str, float]) -> None:
    """Put a record beside the runs, in the experiment ``benchmarks``; skipped without mlflow."""
    try:
        import mlflow
    except ImportError:
        print("mlflow is not installed; the record is in benchmarks/results only")
        return
    database = HERE.parent / "runs" / "mlflow.db"
    database.parent.mkdir(exist_ok=True)
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    if mlflow.get_experiment_by_name("benchmarks") is None:
        artifacts = (database.parent / "benchmark_artifacts").resolve()
        mlflow.create_experiment("benchmarks", artifact_location=artifacts.as_uri())
    mlflow.set_experiment("benchmarks")
    with mlflow.start_run(run_name=record["name"]):
        mlflow.set_tags({key: str(record[key]) for key in ("commit", "machine", "versions")})
        mlflow.log_metrics(figures)
        mlflow.log_dict(record, f"{record['name']}.json")


def write_record(record: dict) -> None:
    """Keep a record."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{record['name']}.json").write_text(json.dumps(record, indent=1) + "\n")


def heading(record: dict) -> str:
    """Where a record is from."""
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    configuration = f"configuration {record['fingerprint']}, " if record["fingerprint"] else ""
    return (
        f"{record['date']}, commit {record['commit']}, {configuration}{record['machine']}, "
        f"{versions}."
    )
