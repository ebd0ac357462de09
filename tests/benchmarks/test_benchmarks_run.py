"""The benchmarks run, on a tiny model; nothing is said about time."""

import subprocess
import sys

import pytest

from runs import ROOT, environment


def bench(script: str, *arguments: str, batch: bool = True) -> str:
    small = ["--smoke", *(["--batch", "8"] if batch else [])]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *small, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("task", ["pretraining", "answering"])
def test_steps_against_transformers(task: str) -> None:
    rounds = ("--precision", "fp32", "--rounds", "1", "--warm-up", "0")
    output = bench("bench_model.py", "--task", task, *rounds)
    rows = [line for line in output.splitlines() if "losses differ by" in line]
    assert [row.split(":")[0] for row in rows] == ["fp32 k=1", "fp32 k=4"]
    # Worst measured: 2e-7.
    assert all(float(row.split("losses differ by")[1]) < 1e-5 for row in rows)


def test_profile_adds_up() -> None:
    output = bench("bench_model.py", "--precision", "fp32", "--profile")
    lines = output.splitlines()
    for room in ("language encoder", "visual head", "clip and optimiser", "whole step"):
        assert any(line.startswith(room) for line in lines), room
    shares = [float(line.split()[-1].rstrip("%")) for line in lines if line.endswith("%")]
    assert shares[-1] == 100
    assert sum(shares[:-1]) == pytest.approx(100, abs=0.1 * len(shares))


@pytest.mark.slow
def test_ideas() -> None:
    output = bench("bench_ideas.py", "--precision", "fp32", "--rounds", "1")
    assert len(output.splitlines()) == 9


def test_plan() -> None:
    output = bench("bench_plan.py")
    assert output.count("resume_seconds") == 9
    assert output.count("read_ratio") == 3


@pytest.mark.s3
def test_streams_deliver_the_same_samples() -> None:
    """But for MosaicML's, which has an environment of its own."""
    lines = bench("bench_stream.py", "--peers", "webdataset").splitlines()
    names = ["ours", "ours, k = 4", "zarr + s3fs, image by image"]
    if not any(line.startswith("webdataset is left out: not installed") for line in lines):
        names += [f"webdataset, one sample {form}, 0 workers" for form in ("a pair", "an image")]
    for name in names:
        assert any(line.startswith(f"{name}: ") for line in lines), name


@pytest.mark.slow
def test_ingest() -> None:
    output = bench("bench_ingest.py", "--processes", "2", batch=False)
    names = [line.split(":")[0] for line in output.splitlines() if " us CPU" in line]
    assert names == ["floor", "floor, pybase64", "ours"]
    assert "of the floor; bar 0.5" in output
    assert "most memory of a process" in output


@pytest.mark.slow
def test_extract() -> None:
    lines = bench("bench_extract.py", batch=False).splitlines()
    names = [line.split(":")[0] for line in lines if line.endswith("images/s")]
    assert names[2] == "ours"
    assert names[1].startswith("torchvision")
    assert names[3:] == ["2 workers"]
    assert any("2 workers: peak MiB" in line for line in lines)


@pytest.mark.slow
def test_loop() -> None:
    output = bench(
        "bench_loop.py", "--images", "160", "--rounds", "6", "--every", "2", "--warm-up", "1"
    )
    assert "the bare loop's" in output
    assert "as long as torch.save" in output


@pytest.mark.slow
@pytest.mark.distributed
def test_collectives() -> None:
    lines = bench("bench_collectives.py", batch=False).splitlines()
    assert sum("MiB" in line for line in lines) == 3 * 2
    assert sum("predicted" in line for line in lines) == 2 * 5
    assert sum(line.startswith("one rank") for line in lines) == 2 * 5
