"""The command ``launch/report.py``: a run as one HTML file."""

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from lxmert_dist.cli.command import frame, run_command
from lxmert_dist.errors import ConfigError, DataError

DESCRIPTION = """\
Write a run as one HTML file that needs no other: its figures and curves, its settings, statistics
of its data, and held-out samples with what its newest weights predict and look at.

A run that still goes on can be looked at, once it has a checkpoint."""

EXAMPLES = """\
examples:
  python launch/report.py runs/easy_vqa
  python launch/report.py runs/lxmert --store s3://bucket/lxmert --images coco/ --samples 20
  python launch/report.py runs/lxmert --shallow --out page.html
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = frame(DESCRIPTION, EXAMPLES)
    parser.add_argument("run", metavar="RUN", type=Path, help="directory of the run")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the page (default: report.html in the directory)"
    )
    parser.add_argument(
        "--store", default="", metavar="URI", help="the run's store, where it was moved"
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="shows IMAGE_ID.jpg or .png below the regions (those of easy-VQA are found alone)",
    )
    parser.add_argument(
        "--samples", type=int, default=8, metavar="N", help="held-out pairs shown (default 8)"
    )
    parser.add_argument(
        "--shallow", action="store_true", help="read the directory alone: no data, no samples"
    )
    return run_command(_report, parser, argv)


def _report(arguments: argparse.Namespace) -> None:
    from lxmert_dist.report import read_run, write_report

    if arguments.samples < 1:
        raise ConfigError("--samples counts from 1; --shallow leaves them out")
    if arguments.images is not None and not arguments.images.is_dir():
        raise ConfigError(f"there is no directory {arguments.images}; check --images")
    if find_spec("matplotlib") is None:
        raise DataError("curves need matplotlib: pip install 'lxmert_dist[plot]'")
    file = arguments.out or arguments.run / "report.html"
    run = read_run(
        arguments.run,
        store=arguments.store,
        images=arguments.images,
        samples=arguments.samples,
        deep=not arguments.shallow,
    )
    write_report(run, file)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB, open it in a browser")  # noqa: T201
