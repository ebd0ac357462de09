"""Records of benchmarks are comparable runs of one MLflow experiment."""

import importlib
import json
from pathlib import Path

import pytest

from runs import ROOT


@pytest.fixture
def record(monkeypatch, tmp_path):
    pytest.importorskip("mlflow")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("record")
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(module, "HERE", tmp_path / "benchmarks")
    return module


def test_each_record_is_a_named_and_tagged_run(record, tmp_path):
    import mlflow

    for gain in (1.0, 2.0):
        made = {**record.new_record("step", "0123456789abcdef"), "commit": "abc1234"}
        record.log_to_mlflow(made, {"ours, k = 4": gain})
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("benchmarks")
    later, earlier = client.search_runs([experiment.experiment_id])
    for run, gain in ((earlier, 1.0), (later, 2.0)):
        assert run.info.run_name == "step"
        assert run.info.status == "FINISHED"
        assert run.data.tags["fingerprint"] == "0123456789abcdef"
        assert run.data.tags["mlflow.source.git.commit"] == "abc1234"
        assert run.data.metrics == {"ours k  4": gain}
        assert run.data.params == {"machine": made["machine"], **made["versions"]}
        kept = Path(client.download_artifacts(run.info.run_id, "step.json"))
        assert json.loads(kept.read_text()) == made


def test_every_benchmark_that_keeps_a_record_logs_it():
    for script in (ROOT / "benchmarks").glob("bench_*.py"):
        text = script.read_text()
        assert ("write_record(" in text) == ("log_to_mlflow(" in text), script.name
