"""One JSON a benchmark: what was measured, where, when, and with what."""

import datetime
import json
import os
import platform
import re
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
    """Put a record beside the runs, in the experiment ``benchmarks``; skipped without mlflow.

    A benchmark is a run by its own name each time, so that its figures can be compared over
    commits; machine and versions are parameters, which MLflow shows beside them.
    """
    try:
        from mlflow import MlflowClient
    except ImportError:
        print("mlflow is not installed; the record is in benchmarks/results only")
        return
    database = HERE.parent / "runs" / "mlflow.db"
    database.parent.mkdir(exist_ok=True)
    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name("benchmarks")
    if experiment is None:
        artifacts = (database.parent / "benchmark_artifacts").resolve()
        experiment_id = client.create_experiment("benchmarks", artifacts.as_uri())
    else:
        experiment_id = experiment.experiment_id
    tags = {"mlflow.source.git.commit": record["commit"], "fingerprint": record["fingerprint"]}
    run_id = client.create_run(
        experiment_id,
        run_name=record["name"],
        tags={key: value for key, value in tags.items() if value},
    ).info.run_id
    for name, value in {"machine": record["machine"], **record["versions"]}.items():
        client.log_param(run_id, name, value)
    for name, value in figures.items():
        client.log_metric(run_id, re.sub(r"[^\w./: -]", "", name), value)
    client.log_dict(run_id, record, f"{record['name']}.json")
    client.set_terminated(run_id)


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
