"""A real MLflow server that comes late, or is killed under a run, gets everything in the end."""

import time

import pytest

from lxmert_dist.config import TrackingConfig
from lxmert_dist.tracking import build_tracker, mlflow_tracker
from mlflow_server import mlflow_server
from ranks import started
from runs import SMALL, at_step, ledger, pretrain

LONGER = ("train.epochs=4", "train.max_steps=80")


@pytest.fixture
def server(tmp_path):
    pytest.importorskip("mlflow")
    folder = tmp_path / "server"
    folder.mkdir()
    with mlflow_server(folder) as server:
        yield server


@pytest.fixture
def client(server):
    import mlflow

    return mlflow.MlflowClient(server.uri)


@pytest.mark.slow
def test_metrics_reach_a_server_that_comes_up_late(server, client, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(mlflow_tracker, "_RETRY_SECONDS", 0.5)
    tracker = build_tracker(
        TrackingConfig(uri=server.uri, experiment="tests"),
        directory=tmp_path / "run",
        run_name="a run",
        run_id=None,
        resume_step=None,
        tags={},
    )
    tracker.log_metrics({"train/loss": 2.0}, 7)
    tracker.log_text("a = 1", "config.toml")
    time.sleep(1)
    server.start()
    deadline = time.monotonic() + 60
    while tracker.run_id is None and time.monotonic() < deadline:
        time.sleep(0.2)
    tracker.close("FINISHED")
    found = client.get_run(tracker.run_id)
    assert caplog.text.count("Training goes on") == 1
    assert [a.path for a in client.list_artifacts(tracker.run_id)] == ["config.toml"]
    assert found.data.metrics == {"train/loss": 2.0}
    assert found.info.status == "FINISHED"


@pytest.mark.distributed
def test_a_server_that_is_killed_disturbs_no_run_and_gets_the_rest_later(
    server, client, tiny_store, tmp_path
):
    """Killed after a third of a run, which is stopped after the second; back for the third."""
    undisturbed = pretrain(tmp_path / "undisturbed", tiny_store, *LONGER, ranks=2)
    directory = tmp_path / "run"
    settings = [*SMALL, *LONGER, f"directory={directory}", f"data.store={tiny_store}"]
    settings += ["tracking.mlflow=true", f"tracking.uri={server.uri}"]
    server.start()
    with started(settings, 2) as running:
        at_step(running, directory, 15)
        server.kill()
        at_step(running, directory, len(ledger(directory)) + 15)
        for process in running.processes:
            process.terminate()
        assert running.wait() == [75, 75], running.output
        assert running.output.count("Training goes on") == 1
    stopped = len(ledger(directory))
    server.start()
    with started(settings, 2) as running:
        assert running.wait() == [0, 0], running.output
    assert ledger(directory) == undisturbed
    [run] = client.search_runs([e.experiment_id for e in client.search_experiments()])
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == [*range(4, 81, 4)]
    assert stopped < 80
