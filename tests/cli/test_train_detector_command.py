"""``launch/train_detector.py``: it trains, goes on, stops when told, and refuses what is wrong."""

import os
import signal
import time
from pathlib import Path

import pytest

from lxmert_dist.cli import prepare, train_detector
from lxmert_dist.config import load_config
from lxmert_dist.config.detector_training import TrainableDetectorConfig
from lxmert_dist.detect import load_detector
from lxmert_dist.detect.training import DetectorTrainer
from lxmert_dist.store import open_store
from lxmert_dist.tracking import read_metrics
from lxmert_dist.train.claim import claim

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "detector"
SMALL = (
    "resnet.width=2", "input.short_side=64", "input.long_side=64", "training.steps=4",
    "training.batch_images=2", "training.validate_every=2", "training.log_every=1",
    "tracking.mlflow=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def first_images():
    """Of easy-VQA's parts, which take seconds to read."""
    pytest.importorskip("easy_vqa")
    config = load_config(TrainableDetectorConfig, CONFIGS / "easy_vqa.toml")
    return {part: train_detector.read_images(config, None, part)[:6] for part in ("train", "test")}


@pytest.fixture
def few_images(monkeypatch, first_images):
    monkeypatch.setattr(train_detector, "read_images", lambda *given: first_images[given[-1]])


@pytest.fixture
def command(capsys):
    """Runs the command on easy-VQA; returns its exit code and what it said."""

    def command(*line, settings=SMALL):
        words = ["--config", str(CONFIGS / "easy_vqa.toml"), *map(str, line)]
        for setting in settings:
            words += ["--set", setting]
        code = train_detector.main(words)
        said = capsys.readouterr()
        return code, said.out + said.err

    return command


def test_it_leaves_a_detector_that_prepare_takes(command, few_images, tmp_path):
    out = tmp_path / "detector"
    code, said = command("--out", out)
    assert code == 0, said
    assert "step 4/4" in said
    assert "images/s" in said
    assert "min left" in said
    log = [metrics for step, metrics in read_metrics(out / "metrics.jsonl") if step == 4]
    assert log[0]["train/attribute"] > 0
    assert 0 <= log[1]["valid/map50"] <= 1
    detector = load_detector(out)
    assert detector.object_classes == ("circle", "rectangle", "triangle")
    store = str(tmp_path / "store")
    line = ["easy-vqa", "--out", store, "--limit", "12", "--detector", str(out), "--boxes", "3"]
    assert prepare.main(line) == 0
    spec = open_store(store).spec
    assert (spec.num_objects, spec.feature_dim, spec.num_attribute_classes) == (3, 64, 8)
    code, said = command("--out", out)  # nothing is left
    assert code == 0
    assert "step 4 of 4" in said


def test_a_directory_in_use_is_refused(command, few_images, tmp_path, monkeypatch):
    monkeypatch.setattr(train_detector, "_GRACE_SECONDS", 0)
    with claim(tmp_path, 0):
        code, said = command("--out", tmp_path)
    assert code == 1
    assert f"error: {tmp_path}: process {os.getpid()} of" in said
    assert [file.name for file in tmp_path.iterdir()] == ["in_use"]


def test_sigterm_leaves_a_detector_and_the_same_command_goes_on(
    command, few_images, tmp_path, monkeypatch
):
    straight, out = tmp_path / "straight", tmp_path / "out"
    assert command("--out", straight)[0] == 0
    step = DetectorTrainer.take_step

    def told_to_stop(self):
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self)

    monkeypatch.setattr(DetectorTrainer, "take_step", told_to_stop)
    code, said = command("--out", out)
    assert code == 75
    assert "SIGTERM ended the run" in said
    load_detector(out)
    monkeypatch.setattr(DetectorTrainer, "take_step", step)
    code, said = command("--out", out)
    assert code == 0
    assert "step 3 of 4" in said
    weights = "model.safetensors"
    assert (out / weights).read_bytes() == (straight / weights).read_bytes()


def test_mlflow_has_one_run_of_a_training_that_was_stopped(
    command, few_images, tmp_path, monkeypatch
):
    mlflow = pytest.importorskip("mlflow")
    out, settings = tmp_path / "out", (*SMALL[:-1], "tracking.experiment=detectors")
    step, build, trackers = DetectorTrainer.take_step, train_detector._tracker, []

    def keep(*given):
        trackers.append(build(*given))
        return trackers[-1]

    def interrupted(self):
        if self.step == 2:
            while trackers[-1].run_id is None:  # a new database takes seconds
                time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    def ended(code, said):
        client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
        experiment = client.get_experiment_by_name("detectors")
        (run,) = client.search_runs([experiment.experiment_id])
        losses = client.get_metric_history(run.info.run_id, "train/loss")
        return code, run, [m.step for m in losses], said, client

    monkeypatch.setattr(train_detector, "_tracker", keep)
    monkeypatch.setattr(DetectorTrainer, "take_step", interrupted)
    code, run, steps, *_ = ended(*command("--out", out, settings=settings))
    assert (code, run.info.status, steps) == (130, "KILLED", [1, 2, 3])
    monkeypatch.setattr(DetectorTrainer, "take_step", step)
    code, run, steps, said, client = ended(*command("--out", out, settings=settings))
    assert (code, run.info.status, steps) == (0, "FINISHED", [1, 2, 3, 4])
    assert run.data.metrics["valid/map50"] >= 0
    assert run.data.params["training.steps"] == "4"
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"config.toml", "environment.json"}
    assert f"--backend-store-uri sqlite:///{tmp_path}/mlflow.db" in said


@pytest.mark.parametrize(
    ("line", "settings", "said"),
    [
        (["--data", "/nowhere"], (), "/nowhere"),
        ([], ("training.source=nlvr1",), "needs --data"),
        ([], ("training.steps=0",), "training.steps"),
        ([], ("training.object_names=['circle']",), "regions.object_classes=3"),
        ([], ("training.attribute_names=['a', 'a']", "regions.attribute_classes=2"), "name twice"),
        ([], ("training.object_names=['circle', 'star', 'triangle']",), "but the data have circle"),
        ([], ("training.validation_part=train",), "validate on another"),
        ([], ("training.anchor_overlaps=[0.7, 0.3]",), "must ascend"),
        ([], ("training.step=3",), "did you mean training.steps?"),
    ],
)
def test_wrong_settings_and_missing_data_are_named(command, tmp_path, line, settings, said):
    code, told = command("--out", tmp_path / "out", *line, settings=settings)
    assert code in (1, 2)
    assert said in told
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["easy_vqa", "nlvr1"])
def test_shipped_settings_are_read_and_shown(name, capsys):
    assert train_detector.main(["--config", str(CONFIGS / f"{name}.toml"), "--print-config"]) == 0
    assert "[training]" in capsys.readouterr().out
