"""The command ``launch/submit.py``: predictions in the format of a task's evaluation server."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lxmert_dist.cli.command import frame, run_command
from lxmert_dist.cli.score import TASKS

DESCRIPTION = """\
Turn predictions into the file that a task's evaluation server takes.

vqa     a JSON list, {"question_id": 458752000, "answer": "net"}
gqa     a JSON list, {"questionId": "202218649", "prediction": "picture"}
nlvr2   lines, test1-0-0-0,True

Predictions are our JSON Lines (launch/score.py --help shows one), or such a file. They must answer
each question of the split once, and no other. What was written is read again and compared."""

EXAMPLES = """\
examples:
  python launch/submit.py vqa --predictions test.jsonl --out submit.json \\
      --questions v2_OpenEnded_mscoco_test2015_questions.json
  python launch/submit.py gqa --predictions all.jsonl --out submit.json \\
      --questions submission_all_questions.json
  python launch/submit.py nlvr2 --predictions test1.jsonl --out test1.csv \\
      --questions nlvr2/data/test1.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = frame(DESCRIPTION, EXAMPLES)
    parser.add_argument("task", choices=TASKS, help="whose server it is for")
    parser.add_argument("--predictions", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--questions",
        type=Path,
        required=True,
        metavar="FILE",
        help="the published file of the questions, with or without answers",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="the file to make")
    parser.add_argument(
        "--partial", action="store_true", help="leave questions out that were not answered"
    )
    return run_command(_submit, parser, argv)


def _submit(arguments: argparse.Namespace) -> None:
    from lxmert_dist.scoring.predictions import check_complete
    from lxmert_dist.scoring.servers import read_answers, read_question_ids, write_submission

    task = arguments.task
    answers = read_answers(task, arguments.predictions)
    asked = dict.fromkeys(read_question_ids(task, arguments.questions), True)
    check_complete(answers, asked, arguments.questions, arguments.partial)
    write_submission(task, arguments.out, answers)
    print(f"wrote {len(answers.by_uid):,} answers to {arguments.out}")  # noqa: T201
