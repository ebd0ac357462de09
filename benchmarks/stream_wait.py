"""How long training waits for data that come from an S3 server.

``uv run benchmarks/stream_wait.py`` prepares easy-VQA and a synthetic store of full-size features
on a SeaweedFS of its own, pretrains the quickstart's model from there (the share is the run's own
metric ``train/data_wait_share``), and lets the loader with the pretraining tasks' collation feed a
loop whose steps only sleep, as long as the published model's steps would take on one GPU at 10,000
pairs a second. It writes ``benchmarks/results/stream_wait.json``, and renders ``RESULTS.md``.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import new_record, write_record
from report import render
from stream_contestants import SEED, collation, opened
from stream_files import make_store

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))

from s3_server import serve_s3  # noqa: E402

PAIRS_PER_SECOND = 10_000


def main() -> None:
    """Both measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300, help="of the quickstart's training")
    parser.add_argument("--repeats", type=int, default=3, help="of each paced epoch")
    parser.add_argument("--images", type=int, default=2048, help="of the synthetic store")
    parser.add_argument("--easy-vqa", metavar="URI", help="a store to copy, to save its making")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--note", default="", help="what to know of the machine meanwhile")
    arguments = parser.parse_args()
    record = new_record("stream_wait")
    record["command"] = "benchmarks/stream_wait.py"
    record["steps"] = arguments.steps
    record["note"] = arguments.note
    with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="bench_wait_") as scratch:
        (Path(scratch) / "server").mkdir()
        with serve_s3(Path(scratch) / "server") as server:
            os.environ.update(server.environment())
            easy, made = server.uri("easy_vqa"), server.uri("synthetic")
            prepare(easy, arguments.easy_vqa)
            record["training"] = train(easy, Path(scratch) / "run", arguments.steps)
            make_store(made, arguments.images, smoke=False)
            turns = [(b, k) for b in ("fsspec", "obstore") for k in (1, 4)] * arguments.repeats
            record["paced"] = [paced(made, backend, group) for backend, group in turns]
    for row in (record["training"], *record["paced"]):
        print(row)
    write_record(record)
    render()


def prepare(uri: str, copied: str | None) -> None:
    """easy-VQA at ``uri``."""
    from s3fs import S3FileSystem

    if copied:
        S3FileSystem().put(f"{copied.rstrip('/')}/", uri, recursive=True)
        return
    script = str(ROOT / "launch" / "prepare.py")
    subprocess.run([sys.executable, script, "easy-vqa", "--out", uri], check=True)


def train(uri: str, directory: Path, steps: int) -> dict[str, float]:
    """The run's own figures: the mean of its log lines but the first."""
    from lxmert_dist.tracking import read_metrics

    settings = (
        f"data.store={uri}",
        f"directory={directory}",
        f"train.max_steps={steps}",
        "train.log_every=20",
        f"train.validate_every={steps}",
        "train.validation_pairs=128",
        "tracking.mlflow=false",
    )
    script = str(ROOT / "launch" / "pretrain.py")
    line = [sys.executable, script]
    for setting in settings:
        line += ["--set", setting]
    subprocess.run(line, check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    logged = [
        m for _, m in read_metrics(directory / "metrics.jsonl") if "train/data_wait_share" in m
    ]
    names = ("data_wait_share", "seconds_per_step", "pairs_per_second")
    return {
        name: sum(line[f"train/{name}"] for line in logged[1:]) / len(logged[1:]) for name in names
    }


def paced(uri: str, backend: str, group: int) -> dict:
    """An epoch at a GPU's pace, after a warm-up of as many steps as are prepared ahead."""
    from lxmert_dist.stream.loader import Loader, LoaderSettings, TrainingSteps
    from lxmert_dist.stream.plan import PlanSettings

    store, split, index = opened(uri, backend=backend)
    batch = 256
    reading = LoaderSettings(batch)
    plan = PlanSettings(8, 8, batch, group)
    collate = collation("pretraining", store, split, index)
    steps = TrainingSteps(split, index, plan, reading, collate, SEED, 1)
    step_s = batch / PAIRS_PER_SECOND
    waited = busy = 0.0
    with Loader(split, steps, reading) as loader:
        for number, step in enumerate(loader):
            if number == 2 * reading.prefetch_steps:
                cpu, waited, busy = _cpu_seconds(), 0.0, 0.0
            began = time.perf_counter()
            time.sleep(step_s)
            busy += time.perf_counter() - began
            waited += step.wait_seconds
            del step
    timed = number + 1 - 2 * reading.prefetch_steps
    return {
        "backend": backend,
        "pairs_per_image": group,
        "steps": timed,
        "data_wait_share": waited / (waited + busy),
        "cpu_seconds_per_step": (_cpu_seconds() - cpu) / timed,
        "step_seconds": step_s,
        "load": round(os.getloadavg()[0], 1),
    }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
