"""What each task of pretraining is worth on easy-VQA: an ablation study, and its scores kept.

``uv run benchmarks/bench_ablations.py`` runs ``configs/ablations/easy_vqa.toml`` as
``launch/ablate.py`` does (what that has finished is not run again), writes
``benchmarks/results/ablations.json`` and renders ``RESULTS.md``.
"""

import argparse
import statistics
from pathlib import Path

from lxmert_dist.cli.ablate import check_trials, plan_trials, run_trials, scores
from lxmert_dist.config import load_config
from lxmert_dist.config.ablation import AblationConfig
from record import log_to_mlflow, new_record, write_record
from report import render

FILE = "configs/ablations/easy_vqa.toml"


def main() -> None:
    """Run all rows with all seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    config = load_config(AblationConfig, Path(FILE))
    trials = plan_trials(config, config.rows)
    check_trials(config, trials)
    run_trials(config, trials)
    found = scores(config, trials)
    record = new_record("ablations")
    record["command"] = "benchmarks/bench_ablations.py"
    record["study"] = {"file": FILE, "seeds": config.seeds, "pretrain_set": config.pretrain_set}
    record["rows"] = [
        {
            "table": row.table,
            "name": row.name,
            "changes": row.pretrain,
            "scores": found[row.name],
            "published": row.published,
        }
        for row in config.rows
    ]
    write_record(record)
    log_to_mlflow(record, {name: statistics.mean(values) for name, values in found.items()})
    render()


if __name__ == "__main__":
    main()
