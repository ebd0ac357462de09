"""The command ``launch/score.py``: the official figures of a file of predictions."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lxmert_dist.cli.command import frame, run_command
from lxmert_dist.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lxmert_dist.scoring.result import Intervals, Result

TASKS = ("vqa", "gqa", "nlvr2")

DESCRIPTION = """\
How good are these predictions? Counted exactly as the official script of the task does.

vqa     accuracy by the answers of ten people, after the official normalisation of answers; by type
        of answer and of question
gqa     accuracy, binary, open, consistency, validity, plausibility, distribution (lower is
        better); by structural and semantic type, steps of reasoning and words
nlvr2   accuracy, and consistency: sentences that are right for all their pairs of images

Predictions are JSON Lines, {"uid": "458752000", "answer": "net", "score": 0.91, "top": [["net",
0.91], ["fence", 0.04]]}, or a file that the task's server takes. Each question is answered once."""

EXAMPLES = """\
examples:
  python launch/score.py vqa --predictions runs/vqa/predictions.jsonl \\
      --annotations v2_mscoco_val2014_annotations.json
  python launch/score.py vqa --predictions minival.json --partial \\
      --annotations v2_mscoco_val2014_annotations.json --bootstrap 1000 --json score.json
  python launch/score.py gqa --predictions testdev.json --questions testdev_balanced_questions.json
  python launch/score.py gqa --predictions val.json --questions val_all_questions.json \\
      --choices val_choices.json
  python launch/score.py nlvr2 --predictions dev.csv --annotations nlvr2/data/dev.json
GQA's consistency takes predictions for all questions, balanced or not; validity and plausibility
take the choices.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = frame(DESCRIPTION, EXAMPLES)
    parser.add_argument("task", choices=TASKS, help="whose rules count")
    parser.add_argument("--predictions", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--annotations",
        "--questions",
        dest="annotations",
        type=Path,
        required=True,
        metavar="FILE",
        help="the published file with the right answers: VQA's annotations, GQA's questions, "
        "NLVR2's examples",
    )
    parser.add_argument(
        "--choices", type=Path, metavar="FILE", help="GQA's valid and plausible answers"
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="score the questions that were answered, where others were not",
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=0,
        metavar="N",
        help="add 95 %% intervals from N resamples of the images (default 0: none)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the resamples (default 0)"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to a file")
    parser.add_argument(
        "--run-id", metavar="ID", help="add the figures to this run of MLflow, as score/TASK/…"
    )
    parser.add_argument(
        "--tracking-uri",
        default="sqlite:///runs/mlflow.db",
        metavar="URI",
        help="of MLflow, for --run-id (default: %(default)s)",
    )
    return run_command(_score, parser, argv)


def _score(arguments: argparse.Namespace) -> None:
    from lxmert_dist.scoring.bootstrap import intervals
    from lxmert_dist.scoring.replacing import replacing

    if arguments.choices is not None and arguments.task != "gqa":
        raise ConfigError(f"--choices goes with gqa; leave it out for {arguments.task}")
    for name in ("bootstrap", "seed"):
        if getattr(arguments, name) < 0:
            raise ConfigError(f"--{name} counts from 0")
    result = _result(arguments)
    bounds: Intervals = {}
    if arguments.bootstrap:
        bounds = intervals(result.parts, arguments.bootstrap, arguments.seed)
    for line in result.as_table(bounds):
        print(line)  # noqa: T201
    content = _content(arguments, result, bounds)
    if arguments.json is not None:
        with replacing(arguments.json) as temporary:
            temporary.write_text(content, "utf-8")
    if arguments.run_id is not None:
        _track(arguments, result, content)


def _result(arguments: argparse.Namespace) -> "Result":
    from lxmert_dist.scoring.servers import read_answers

    answers = read_answers(arguments.task, arguments.predictions)
    truth, partial = arguments.annotations, arguments.partial
    match arguments.task:
        case "vqa":
            from lxmert_dist.scoring.vqa import score_vqa

            return score_vqa(answers, truth, partial=partial)
        case "gqa":
            from lxmert_dist.scoring.gqa import score_gqa

            return score_gqa(answers, truth, arguments.choices, partial=partial)
        case _:
            from lxmert_dist.scoring.nlvr2 import score_nlvr2

            return score_nlvr2(answers, truth, partial=partial)


def _content(arguments: argparse.Namespace, result: "Result", bounds: "Intervals") -> str:
    """The figures as JSON, with what they are of."""
    tree = {
        **result.as_json(bounds),
        "predictions": str(arguments.predictions),
        "annotations": str(arguments.annotations),
        "partial": arguments.partial,
        "bootstrap": arguments.bootstrap,
        "seed": arguments.seed,
    }
    return json.dumps(tree, indent=1, allow_nan=False) + "\n"


def _track(arguments: argparse.Namespace, result: "Result", content: str) -> None:
    """Add the figures to a run of MLflow."""
    from lxmert_dist.tracking import log_to_run

    name = f"score/{result.task}"
    figures = {
        f"{name}/{part}/{figure}": value.percent
        for part, values in result.parts.items()
        for figure, value in values.items()
    }
    figures |= {f"{name}/{figure}": value for figure, value in result.statistics.items()}
    try:
        log_to_run(
            arguments.tracking_uri, arguments.run_id, figures, content, f"score-{result.task}.json"
        )
    except ImportError as error:
        raise DataError(
            f"--run-id needs {error.name}: pip install 'lxmert_dist[mlflow]'"
        ) from error
