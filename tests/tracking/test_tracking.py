"""Metrics reach MLflow and the local log; a dead server is a warning; secrets stay here."""

import json
import math
import sys
import threading
import time
from pathlib import Path

import pytest

from lxmert_dist.config import TrackingConfig
from lxmert_dist.errors import ConfigError
from lxmert_dist.tracking import (
    build_tracker,
    environment_report,
    mlflow_tracker,
    read_metrics,
    ui_command,
)
from lxmert_dist.tracking.jsonl import JsonlTracker


@pytest.fixture
def client(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    return mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


def track(
    directory: Path,
    uri: str = "",
    run_id: str | None = None,
    step: int | None = None,
    parent: str = "",
    experiment: str = "tests",
):
    config = TrackingConfig(uri=uri, experiment=experiment)
    return build_tracker(
        config,
        directory=directory / "run",
        run_name="a run",
        run_id=run_id,
        resume_step=step,
        tags={"launcher": "process"},
        parent=parent,
    )


def test_a_run_is_logged_and_continued(client, tmp_path):
    first = track(tmp_path)
    first.log_params({"train.epochs": 2, "data.store": "s3://me:secret@host/x", "api_key": "abc"})
    first.log_params({"references.true, always": 55.31})  # MLflow takes no comma in a name
    first.log_text("a = 1", "config.toml")
    first.log_text("<svg>s3://me:secret@host</svg>", "plots/losses.svg")
    for step in (1, 2, 3):
        first.log_metrics({"train/loss": 1.0 / step, "train/odd": float("nan")}, step)
    first.close("KILLED")
    then = track(tmp_path, run_id=first.run_id, step=2)
    then.log_params({"train.epochs": 2})
    then.log_metrics({"train/loss": 0.25}, 3)
    then.close("FINISHED")

    assert then.run_id == first.run_id
    run = client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a run"
    assert run.data.tags["launcher"] == "process"
    assert run.data.params["train.epochs"] == "2"
    assert run.data.params["references.true- always"] == "55.31"
    assert "secret" not in str(run.data.params)
    assert "abc" not in str(run.data.params)
    history = client.get_metric_history(first.run_id, "train/loss")
    assert [(m.step, m.value) for m in history if m.step < 3] == [(1, 1.0), (2, 0.5)]
    assert [a.path for a in client.list_artifacts(first.run_id)] == ["config.toml", "plots"]
    [plot] = client.list_artifacts(first.run_id, "plots")
    assert plot.path == "plots/losses.svg"
    assert (tmp_path / "run" / "config.toml").read_text() == "a = 1"
    assert (tmp_path / "run" / plot.path).read_text() == "<svg>s3://…@host</svg>"
    log = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [step for step, _ in log] == [1, 2, 3]
    assert log[-1][1] == {"train/loss": 0.25}


def test_an_unknown_or_deleted_run_id_starts_a_new_run_with_a_warning(client, tmp_path, caplog):
    tracker = track(tmp_path, run_id="0123456789abcdef0123456789abcdef", step=0)
    tracker.close("FINISHED")
    assert "does not know run 0123" in caplog.text
    assert client.get_run(tracker.run_id).info.status == "FINISHED"

    client.delete_run(tracker.run_id)
    then = track(tmp_path, run_id=tracker.run_id, step=0)
    then.close("FINISHED")
    assert f"does not know run {tracker.run_id}" in caplog.text
    assert client.get_run(then.run_id).info.lifecycle_stage == "active"


def test_a_run_stands_below_the_one_whose_weights_it_starts_from(client, tmp_path):
    first = track(tmp_path)
    first.close("FINISHED")
    then = track(tmp_path, parent=first.run_id)
    then.close("KILLED")
    again = track(tmp_path, run_id=then.run_id, step=0, parent=first.run_id)
    again.close("FINISHED")
    assert again.run_id == then.run_id
    tags = client.get_run(then.run_id).data.tags
    assert tags["mlflow.parentRunId"] == tags["init_run"] == first.run_id
    assert "init_run" not in client.get_run(first.run_id).data.tags


@pytest.mark.parametrize("where", ["another experiment", "nowhere"])
def test_a_parent_that_cannot_be_shown_is_named_only(where, client, tmp_path, caplog):
    parent = "0123456789abcdef0123456789abcdef"
    if where == "another experiment":
        first = track(tmp_path, experiment="others")
        first.close("FINISHED")
        parent = first.run_id
    then = track(tmp_path, parent=parent)
    then.close("FINISHED")
    run = client.get_run(then.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["init_run"] == parent
    assert "mlflow.parentRunId" not in run.data.tags
    assert not caplog.records


def test_what_the_server_refuses_holds_nothing_up(client, tmp_path, caplog):
    tracker = track(tmp_path)
    tracker.log_params({"epochs": 2})
    tracker.log_params({"epochs": 3, "lanes": 8})
    tracker.log_metrics({"no such name $": 1.0}, 1)
    tracker.log_text("a = 1", "config.toml")  # ends the batch of metrics
    tracker.log_metrics({"train/loss": 0.5}, 2)
    tracker.close("FINISHED")
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"train/loss": 0.5}
    assert run.data.params == {"epochs": "2", "lanes": "8"}
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "settings changed since the run began: epochs" in told[0]
    assert "refused" in told[1]
    assert "metrics.jsonl" in told[1]


def test_a_full_queue_drops_what_is_new_and_still_ends_the_run(
    client, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(mlflow_tracker, "_QUEUE_LIMIT", 3)
    tracker = track(tmp_path)
    started, go_on = threading.Event(), threading.Event()
    remote = tracker._trackers[1]
    remote._put(lambda client, run_id: (started.set(), go_on.wait(60)))
    assert started.wait(60)
    for step in range(9):
        tracker.log_text("x", f"{step}.txt")
    threading.Timer(0.2, go_on.set).start()
    tracker.close("KILLED")
    run = client.get_run(tracker.run_id)
    assert run.info.status == "KILLED"
    assert [a.path for a in client.list_artifacts(tracker.run_id)] == ["0.txt", "1.txt", "2.txt"]
    assert [record.getMessage().count("are dropped") for record in caplog.records] == [1]


@pytest.mark.filterwarnings("error")
def test_a_dead_server_is_one_warning_and_the_local_log(tmp_path, monkeypatch, caplog):
    pytest.importorskip("mlflow")
    monkeypatch.setattr(mlflow_tracker, "_RETRY_SECONDS", 0.1)
    tracker = track(tmp_path, uri="http://user:pw@127.0.0.1:9")
    for step in range(50):
        tracker.log_metrics({"train/loss": 1.0}, step)
    time.sleep(1)  # several tries
    tracker.close("FINISHED")
    assert tracker.run_id is None
    told = [r.getMessage() for r in caplog.records if r.name.startswith("lxmert_dist")]
    assert len(told) == 1
    assert "127.0.0.1:9" in told[0]
    assert "metrics.jsonl" in told[0]
    assert "pw" not in caplog.text
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 50


def test_mlflow_that_cannot_be_imported_is_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    tracker = track(tmp_path)
    tracker.log_metrics({"train/loss": 1.0}, 1)
    tracker.close("FINISHED")
    assert "MLflow cannot be imported" in caplog.text
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == [(1, {"train/loss": 1.0})]


def test_what_the_server_missed_is_sent_by_the_next_start_and_once(client, tmp_path):
    first = track(tmp_path)
    first.log_metrics({"train/loss": 4.0, "valid/loss": 5.0}, 0)
    first.log_metrics({"train/loss": 3.0}, 1)
    first.close("KILLED")
    log = JsonlTracker(tmp_path / "run" / "metrics.jsonl", 1)  # while the server was away
    log.log_metrics({"train/loss": 2.0, "valid/odd": float("nan")}, 2)
    log.log_metrics({"train/loss": 1.0}, 3)  # a step that the run takes again
    log.close("KILLED")
    for _ in range(2):
        then = track(tmp_path, run_id=first.run_id, step=2)
        then.close("FINISHED")
    assert then.run_id == first.run_id
    history = client.get_metric_history(first.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(0, 4.0), (1, 3.0), (2, 2.0)]
    assert [m.step for m in client.get_metric_history(first.run_id, "valid/loss")] == [0]


def test_a_run_whose_server_was_never_there_is_sent_whole_by_the_next_start(
    client, tmp_path, monkeypatch
):
    monkeypatch.setattr(mlflow_tracker, "_RETRY_SECONDS", 0.1)
    first = track(tmp_path, uri="http://127.0.0.1:9")
    for step in (1, 2):
        first.log_metrics({"train/loss": 1.0 / step}, step)
    first.close("KILLED")
    assert first.run_id is None
    then = track(tmp_path, step=2)
    then.log_metrics({"train/loss": 0.25}, 4)
    then.close("FINISHED")
    history = client.get_metric_history(then.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5), (4, 0.25)]


def test_the_local_log_survives_a_line_that_was_cut_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = JsonlTracker(path, None)
    log.log_metrics({"a": 1.0}, 1)
    log.log_metrics({"a": 2.0}, 2)
    log.close("KILLED")
    path.write_text(path.read_text()[:-5])
    assert read_metrics(path) == [(1, {"a": 1.0})]
    JsonlTracker(path, None).close("FINISHED")
    assert read_metrics(path) == []


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    log = JsonlTracker(tmp_path / "metrics.jsonl", None)
    log.log_metrics({"a": float("nan"), "b": float("inf"), "c": 1.0}, 1)
    log.close("FINISHED")
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text)["metrics"] == {"a": None, "b": None, "c": 1.0}
    [(_, metrics)] = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(metrics["a"])


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ConfigError, match=r"cannot write .*metrics\.jsonl"):
        JsonlTracker(tmp_path / "run" / "metrics.jsonl", None)


def test_a_text_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    log = JsonlTracker(tmp_path / "metrics.jsonl", None)
    (tmp_path / "plots").write_text("a file")
    log.log_text("<svg/>", "plots/losses.svg")
    log.log_metrics({"a": 1.0}, 1)
    log.close("FINISHED")
    assert f"cannot write {tmp_path}/plots/losses.svg" in caplog.text
    assert read_metrics(tmp_path / "metrics.jsonl") == [(1, {"a": 1.0})]


def test_the_environment_is_reported_as_json():
    report = json.loads(environment_report())
    assert report["packages"]["torch"]
    assert report["python"].startswith("3.")


def test_the_ui_command_names_the_store(tmp_path):
    assert f"sqlite:///{tmp_path}/mlflow.db" in ui_command(TrackingConfig(), tmp_path / "run")
    assert "user" not in ui_command(TrackingConfig(uri="http://user:pw@h"), tmp_path)
