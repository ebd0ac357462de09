"""The newcomer's path on real input, cut short: prepare, pretrain, fine-tune, as typed."""

import subprocess

import pytest

from lxmert_dist.config.sections import ObjectivesConfig
from lxmert_dist.store import open_store
from lxmert_dist.tracking import read_metrics
from runs import command, environment, run

LOSSES = ("masked_lm", "matching", "object_label", "attribute_label", "roi_feature", "image_qa")
pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A directory with a store of 300 training and 300 test images."""
    home = tmp_path_factory.mktemp("home")
    line = command("prepare.py", [])
    line += ["easy-vqa", "--out", str(home / "store"), "--limit", "300"]
    done = subprocess.run(
        line, env=environment(), capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "test: 300 images" in done.stderr
    return home


@pytest.fixture(scope="module")
def pretrained(home):
    """What pretraining said, and its directory."""
    directory = home / "runs" / "pretrain"
    settings = [
        f"directory={directory}",
        f"data.store={home / 'store'}",
        "train.epochs=4",
        "train.global_batch_size=64",
    ]
    done = run("pretrain.py", settings, timeout=300)
    assert done.code == 0, done.output
    return directory, done.output


def test_all_six_losses_fall_on_held_out_pairs(pretrained):
    directory, _ = pretrained
    log = [m for _, m in read_metrics(directory / "metrics.jsonl") if "valid/masked_lm" in m]
    for name in LOSSES:
        assert log[-1][f"valid/{name}"] < log[0][f"valid/{name}"], name


def test_the_summary_tells_what_came_of_it_and_where_to_go_on(pretrained):
    directory, said = pretrained
    for name in (*LOSSES, "pairs/s", "waiting for data", "matching accuracy on held-out captions"):
        assert name in said
    assert f"checkpoint: {directory}/checkpoints" in said
    assert f"mlflow ui --backend-store-uri sqlite:///{directory.parent}/mlflow.db" in said
    assert "launch/finetune.py" in said


def test_the_same_command_again_says_that_it_is_done(pretrained, home):
    directory, _ = pretrained
    settings = [
        f"directory={directory}",
        f"data.store={home / 'store'}",
        "train.epochs=4",
        "train.global_batch_size=64",
    ]
    done = run("pretrain.py", settings)
    assert done.code == 0, done.output
    assert "nothing is left to train" in done.output


def test_both_starts_are_one_mlflow_run_with_settings_and_all_metrics(pretrained):
    mlflow = pytest.importorskip("mlflow")
    directory, _ = pretrained
    client = mlflow.MlflowClient(f"sqlite:///{directory.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("lxmert_dist")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.global_batch_size"] == "64"
    wanted = {f"{part}/{name}" for part in ("train", "valid") for name in LOSSES}
    wanted |= {"train/learning_rate", "train/gradient_norm", "train/pairs_per_second"}
    assert wanted | {"train/data_wait_share"} <= set(run.data.metrics)
    artifacts = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"config.toml", "environment.json", "plots"}
    plots = {a.path for a in client.list_artifacts(run.info.run_id, "plots")}
    assert plots >= {"plots/losses.svg", "plots/throughput.svg"}


def test_fine_tuning_scores_every_test_question(pretrained, home):
    directory, _ = pretrained
    settings = [
        f"directory={home / 'runs' / 'finetune'}",
        f"data.store={home / 'store'}",
        f"init={directory}",
        "train.epochs=4",
    ]
    done = run("finetune.py", settings)
    assert done.code == 0, done.output
    questions = sum(1 for line in done.output.splitlines() if "questions of split test" in line)
    assert questions == 1
    for name in ("37.33", "67.00", "93.78"):
        assert name in done.output
    log = read_metrics(home / "runs" / "finetune" / "metrics.jsonl")
    # Questions without images give 67 %; 86 % were measured: the model looks at the picture.
    (accuracy,) = (line["test/accuracy"] for _, line in log if "test/accuracy" in line)
    assert accuracy > 0.7


def test_runs_are_named_tagged_and_nested_in_mlflow(pretrained, home):
    """Of the two tests before, which pretrained and fine-tuned."""
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{home}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("lxmert_dist")
    tuned, first = client.search_runs([experiment.experiment_id])  # the latest comes first
    digest = open_store(str(home / "store")).digest
    for found, name, task in (
        (first, "easy_vqa", "pretraining"),
        (tuned, "easy_vqa_finetune", "answering"),
    ):
        assert found.info.run_name == name
        assert found.data.tags["task"] == task
        assert found.data.tags["store_digest"] == digest
        assert len(found.data.tags["fingerprint"]) == 16
        assert len(found.data.tags["mlflow.source.git.commit"]) == 40
    assert tuned.data.tags["mlflow.parentRunId"] == first.info.run_id
    shared = {name for name in first.data.metrics if not name.startswith(("unmasked", "valid"))}
    assert {"train/loss", "train/pairs_per_second", "train/learning_rate"} <= shared
    assert first.data.params.keys() - tuned.data.params.keys() <= {
        f"objectives.{name}" for name in ObjectivesConfig.model_fields
    }
