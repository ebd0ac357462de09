"""The command ``launch/ablate.py``: rows of an ablation table, each trained and scored."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from lxmert_dist.cli.command import add_settings, frame, run_command
from lxmert_dist.config import FinetuneConfig, PretrainConfig, load_config
from lxmert_dist.config.ablation import AblationConfig, AblationRow
from lxmert_dist.errors import ConfigError, LxmertError, PreemptedError, StoppedError
from lxmert_dist.scoring.replacing import replacing
from lxmert_dist.tracking import build_tracker, read_metrics, tracking_uri

DESCRIPTION = """\
Train and score every row of an ablation table with every seed, and print the table beside what was
published. Each run is a process of its own, and below one run of MLflow. Rows that are pretrained
alike share it. What is finished is not run again: the same command goes on after a stop."""

EXAMPLES = """\
examples:
  python launch/ablate.py --config configs/ablations/easy_vqa.toml
  python launch/ablate.py --rows "no vision tasks" "labels only" --dry-run
  python launch/ablate.py --config configs/ablations/lxmert.toml \\
      --set 'launcher=["deepspeed", "--num_gpus", "8"]'
"""

_STOPPED = {kind.exit_code: kind for kind in (StoppedError, PreemptedError)}
SCORE = "score.json"
"""In the directory of a trial's fine-tuning, once it is finished."""
_ID_SECONDS = 30.0
"""How long the tracker may take to name its run, before the trials go on without a parent."""


@dataclass(frozen=True)
class Trial:
    """One row with one seed. ``pretraining``: None from scratch."""

    row: AblationRow
    seed: int
    pretraining: Path | None
    finetuning: Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = frame(DESCRIPTION, EXAMPLES)
    add_settings(parser, "configs/ablations/easy_vqa.toml")
    parser.add_argument(
        "--rows", nargs="+", default=[], metavar="NAME", help="only these (default: all)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check all settings, print the commands, and stop"
    )
    return run_command(_ablate, parser, argv)


def _ablate(arguments: argparse.Namespace) -> None:
    config = load_config(AblationConfig, arguments.config, arguments.set)
    unknown = sorted({*arguments.rows} - {row.name for row in config.rows})
    if unknown:
        raise ConfigError(
            f"{arguments.config} has no row {unknown[0]!r}; choose among "
            + ", ".join(repr(row.name) for row in config.rows)
        )
    rows = [row for row in config.rows if row.name in arguments.rows or not arguments.rows]
    trials = plan_trials(config, rows)
    check_trials(config, trials)
    if arguments.dry_run:
        for trial in trials:
            for line in commands(config, trial, parent=""):
                print(" ".join(line))  # noqa: T201
        return
    run_trials(config, trials)
    print("\n".join(table(config, trials)))  # noqa: T201


def plan_trials(config: AblationConfig, rows: Sequence[AblationRow]) -> list[Trial]:
    """Every row with every seed, seed by seed, so that an early stop leaves whole tables."""
    root = Path(config.directory)
    first: dict[tuple[str, ...], str] = {}
    for row in config.rows:
        if row.pretrained:
            first.setdefault(row.pretrain, row.slug)
    return [
        Trial(
            row,
            seed,
            root / first[row.pretrain] / str(seed) / "pretrain" if row.pretrained else None,
            root / row.slug / str(seed) / "finetune",
        )
        for seed in config.seeds
        for row in rows
    ]


def check_trials(config: AblationConfig, trials: Sequence[Trial]) -> None:
    """See that every run's settings are sound before the first one starts.

    Raises:
        ConfigError: names the row and the setting.
    """
    for trial in trials:
        try:
            if trial.pretraining:
                load_config(
                    PretrainConfig, Path(config.pretrain), _pretrain_settings(config, trial)
                )
            load_config(FinetuneConfig, Path(config.finetune), _finetune_settings(config, trial))
        except ConfigError as error:
            raise ConfigError(f"row {trial.row.name!r}: {error}") from None


def commands(config: AblationConfig, trial: Trial, parent: str) -> Iterator[list[str]]:
    """The command lines of a trial, in order.

    Args:
        config: of the study.
        trial: which.
        parent: id of the MLflow run that they stand below; empty is none.
    """
    tracking = config.tracking
    tracked = [
        f"tracking.mlflow={json.dumps(tracking.mlflow)}",
        f"tracking.uri={tracking_uri(tracking, Path(config.directory))}",
        f"tracking.experiment={tracking.experiment}",
        f"tracking.parent={parent}",
    ]
    parts = [("finetune", config.finetune, _finetune_settings(config, trial))]
    if trial.pretraining:
        parts.insert(0, ("pretrain", config.pretrain, _pretrain_settings(config, trial)))
    for kind, file, settings in parts:
        line = [*(config.launcher or (sys.executable,)), f"launch/{kind}.py", "--config", file]
        for setting in (*settings, *tracked):
            line += ["--set", setting]
        yield line


def run_trials(config: AblationConfig, trials: Sequence[Trial]) -> None:
    """Run what has no score yet, and keep the table up to date.

    Raises:
        LxmertError: a run failed; names it.
        StoppedError: one was stopped.
    """
    root = Path(config.directory)
    if not Path("launch/pretrain.py").is_file():
        raise ConfigError("there is no launch/pretrain.py here; run this in the repository's root")
    root.mkdir(parents=True, exist_ok=True)
    file = root / "study.json"
    known = json.loads(file.read_text("utf-8"))["run_id"] if file.exists() else None
    tracker = build_tracker(
        config.tracking,
        directory=root,
        run_name=config.name,
        run_id=known,
        resume_step=None,
        tags={"study": config.name},
    )
    deadline = time.monotonic() + (_ID_SECONDS if config.tracking.mlflow else 0)
    while tracker.run_id is None and time.monotonic() < deadline:
        time.sleep(0.1)
    with replacing(file) as temporary:
        temporary.write_text(json.dumps({"run_id": tracker.run_id}), "utf-8")
    finished = False
    try:
        with tqdm(total=len(trials), desc="ablations", unit="run") as bar:
            for number, trial in enumerate(trials, start=1):
                bar.set_postfix_str(f"{trial.row.name}, seed {trial.seed}")
                if score(config, trial) is None:
                    for line in commands(config, trial, tracker.run_id or ""):
                        _run(line, trial)
                    _keep_score(config, trial)
                tracker.log_metrics(means(config, trials), number)
                _write_table(config, trials)
                bar.update()
        tracker.log_text("\n".join(table(config, trials)) + "\n", "table.md")
        finished = True
    finally:
        tracker.close("FINISHED" if finished else "KILLED")


def score(config: AblationConfig, trial: Trial) -> float | None:
    """The metric of a finished trial, in percent; None if it is not finished.

    Raises:
        ConfigError: it was run with other settings.
    """
    file = trial.finetuning / SCORE
    if not file.exists():
        return None
    kept = json.loads(file.read_text("utf-8"))
    if kept["settings"] != _settings(config, trial):
        raise ConfigError(
            f"{file} is of other settings than row {trial.row.name!r} has now; set directory=… to "
            "begin another study, or delete the row's directory"
        )
    return 100 * float(kept["value"])


def _keep_score(config: AblationConfig, trial: Trial) -> None:
    log = read_metrics(trial.finetuning / "metrics.jsonl")
    values = [metrics[config.metric] for _, metrics in log if config.metric in metrics]
    if not values:
        known = sorted({name for _, metrics in log for name in metrics if "/acc" in name})
        raise ConfigError(
            f"{trial.finetuning} logged no metric={config.metric}; set it to one of "
            f"{', '.join(known)}"
        )
    record = {"settings": _settings(config, trial), "value": values[-1]}
    with replacing(trial.finetuning / SCORE) as temporary:
        temporary.write_text(json.dumps(record, indent=1), "utf-8")


def _settings(config: AblationConfig, trial: Trial) -> list[str]:
    """What decides the score of a trial."""
    before = _pretrain_settings(config, trial) if trial.pretraining else []
    files = [config.metric, config.pretrain, config.finetune]
    return [*files, *before, *_finetune_settings(config, trial)]


def scores(config: AblationConfig, trials: Sequence[Trial]) -> dict[str, list[float]]:
    """What there is so far, in percent, by row."""
    found: dict[str, list[float]] = {trial.row.name: [] for trial in trials}
    for trial in trials:
        value = score(config, trial)
        if value is not None:
            found[trial.row.name].append(value)
    return found


def means(config: AblationConfig, trials: Sequence[Trial]) -> dict[str, float]:
    """The mean of each row, by ``<row>/<metric>``."""
    slugs = {trial.row.name: trial.row.slug for trial in trials}
    found = scores(config, trials)
    return {f"{slugs[n]}/{config.metric}": statistics.mean(v) for n, v in found.items() if v}


def table(config: AblationConfig, trials: Sequence[Trial]) -> Iterator[str]:
    """Markdown: ours in percent, mean and standard deviation over seeds, beside the published."""
    rows = list({trial.row.name: trial.row for trial in trials}.values())
    tasks = list(dict.fromkeys(task for row in rows for task in row.published))
    heads = ["table", "row", f"{config.metric}, %", "seeds", *(f"paper, {task}" for task in tasks)]
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    found = scores(config, trials)
    for row in rows:
        values = found[row.name]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        ours = f"{statistics.mean(values):.2f}{spread}" if values else "-"
        published = [_percent(row.published, task) for task in tasks]
        yield "| " + " | ".join([row.table, row.name, ours, str(len(values)), *published]) + " |"


def _percent(published: Mapping[str, float], task: str) -> str:
    return f"{published[task]:.1f}" if task in published else ""


def _write_table(config: AblationConfig, trials: Sequence[Trial]) -> None:
    with replacing(Path(config.directory) / "table.md") as temporary:
        temporary.write_text("\n".join(table(config, trials)) + "\n", "utf-8")


def _pretrain_settings(config: AblationConfig, trial: Trial) -> list[str]:
    row = trial.row
    own = [f"name={config.name}: {row.name}, seed {trial.seed}", f"seed={trial.seed}"]
    return [*own, f"directory={trial.pretraining}", *config.pretrain_set, *row.pretrain]


def _finetune_settings(config: AblationConfig, trial: Trial) -> list[str]:
    row = trial.row
    own = [f"name={config.name}: {row.name}, fine-tuned, seed {trial.seed}", f"seed={trial.seed}"]
    start = f"init={trial.pretraining or 'scratch'}"
    return [*own, f"directory={trial.finetuning}", start, *config.finetune_set, *row.finetune]


def _run(line: Sequence[str], trial: Trial) -> None:
    code = subprocess.run(line, check=False).returncode
    what = f"row {trial.row.name!r}, seed {trial.seed}"
    if code in _STOPPED:
        raise _STOPPED[code](f"{what} was stopped; the same command goes on")
    if code:
        raise LxmertError(
            f"{what} failed with exit code {code}, as it says above: {' '.join(line)}. The same "
            "command goes on from there"
        )
