"""An ablation study, with real runs of a tiny model."""

import json
from pathlib import Path

import mlflow
import pytest

from lxmert_dist.cli import ablate
from lxmert_dist.config import load_config
from lxmert_dist.config.ablation import AblationConfig
from lxmert_dist.errors import ConfigError, StoppedError
from runs import ROOT, SMALL

ROWS = """
[[rows]]
name = "From scratch"
pretrained = false
published = { VQA = 65.1 }

[[rows]]
name = "all tasks"
published = { VQA = 69.9, GQA = 60.0 }

[[rows]]
name = "all tasks, tuned otherwise"
finetune = ["optimizer.learning_rate=1e-3"]
"""


@pytest.fixture
def study(tmp_path, monkeypatch, tiny_store):
    """Write a study's file and give the arguments that run it."""
    monkeypatch.chdir(ROOT)

    def write(rows=ROWS, seeds="[1]", **tracking):
        changes = [*SMALL, f"data.store={tiny_store}", "checkpoint.every=0"]
        changes = [c for c in changes if not c.startswith(("train.max_steps", "tracking"))]
        changes += ["train.max_steps=2", "data.sources=[]"]
        file = tmp_path / "study.toml"
        lines = [
            'name = "study"',
            f'directory = "{tmp_path / "runs" / "study"}"',
            'pretrain = "configs/pretrain/easy_vqa.toml"',
            'finetune = "configs/finetune/easy_vqa.toml"',
            f"pretrain_set = {json.dumps(changes)}",
            f"finetune_set = {json.dumps(changes)}",
            f"seeds = {seeds}",
        ]
        file.write_text("\n".join(lines) + rows)
        return ["--config", str(file)]

    return write


@pytest.mark.parametrize(
    "file", sorted(ROOT.glob("configs/ablations/*.toml")), ids=lambda f: f.stem
)
def test_shipped_studies_are_sound(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config(AblationConfig, file)
    trials = ablate.plan_trials(config, config.rows)
    ablate.check_trials(config, trials)
    assert len(trials) == len(config.rows) * len(config.seeds)


def test_a_wrong_row_is_named_before_anything_runs(study, capsys):
    wrong = '\n[[rows]]\nname = "wrong"\npretrain = ["objectives.matching=0"]\n'
    assert ablate.main(study(rows=wrong)) == 2
    assert "row 'wrong'" in (said := capsys.readouterr().err)
    assert "there is no setting objectives.matching" in said
    assert ablate.main([*study(), "--rows", "al tasks"]) == 2
    assert (
        "has no row 'al tasks'; choose among 'From scratch', 'all tasks'" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('[[rows]]\nname = "a"\n[[rows]]\nname = "A"\n', "two rows are called"),
        ('[[rows]]\nname = "a"\npretrained = false\npretrain = ["x=1"]\n', "has settings of a pre"),
    ],
)
def test_rows_that_make_no_sense(study, rows, message):
    with pytest.raises(ConfigError, match=message):
        load_config(AblationConfig, Path(study(rows="\n" + rows)[1]))


def test_rows_that_are_pretrained_alike_share_it(study, capsys):
    assert ablate.main([*study(seeds="[1, 2]"), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * (1 + 2 + 2)
    starts = [line.split("init=")[1].split()[0] for line in lines if "finetune.py" in line]
    assert starts[0] == "scratch"
    assert starts[1] == starts[2]
    assert starts[1] != starts[4]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.distributed
def test_a_study_is_one_tree_of_runs_and_goes_on_after_a_stop(study, tmp_path, capsys, monkeypatch):
    arguments, run, calls = study(), ablate._run, []

    def stop_at_third(line, trial):
        calls.append(line)
        if len(calls) == 3:
            raise StoppedError("enough")
        run(line, trial)

    monkeypatch.setattr(ablate, "_run", stop_at_third)
    assert ablate.main(arguments) == 130
    monkeypatch.setattr(ablate, "_run", lambda *given: (calls.append(given), run(*given)))
    capsys.readouterr()
    assert ablate.main(arguments) == 0
    assert len(calls) == 3 + 4  # the first row was done
    table = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert [row[1] for row in table[2:]] == [
        "From scratch",
        "all tasks",
        "all tasks, tuned otherwise",
    ]
    assert table[0][-2:] == ["paper, VQA", "paper, GQA |"]
    assert table[3][-2:] == ["69.9", "60.0 |"]
    assert all(0 <= float(row[2]) <= 100 for row in table[2:])
    assert (tmp_path / "runs" / "study" / "table.md").read_text().count("|") > 10

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name == "lxmert_dist"]
    found = client.search_runs([experiment.experiment_id])
    [parent] = [r for r in found if r.info.run_name == "study"]
    children = [r for r in found if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 4 == len(found) - 1
    assert set(parent.data.metrics) == {
        f"{slug}/test/accuracy"
        for slug in ("from_scratch", "all_tasks", "all_tasks_tuned_otherwise")
    }
    assert parent.info.status == "FINISHED"

    assert ablate.main([*arguments, "--set", "finetune_set=['train.max_steps=3']"]) == 2
    assert "is of other settings than row" in capsys.readouterr().err
