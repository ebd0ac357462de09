"""The page of a run: one HTML file that needs no other, nor a network."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lxmert_dist.config import FinetuneConfig
from lxmert_dist.report.run import Run
from lxmert_dist.tracking.figures import first_and_last, speed
from lxmert_dist.tracking.plots import draw, panels

_ELSEWHERE = ("train", "data", "checkpoint")
"""What the metrics begin with that are curves, or about the machine."""
_IDS = re.compile(r'(\bid="|href="#|url\(#)')


class Card(NamedTuple):
    """A figure in large print."""

    name: str
    value: str
    note: str = ""


class Bar(NamedTuple):
    """A share beside others, in percent."""

    name: str
    percent: float
    ours: bool = False


class LossRow(NamedTuple):
    """A loss at the first and the last line of the log; None where it was not logged."""

    name: str
    train: tuple[float | None, float | None]
    held_out: tuple[float | None, float | None]


class Figure(NamedTuple):
    """A curve and what a screen reader says of it."""

    title: str
    svg: Markup


def write_report(run: Run, file: Path) -> None:
    """Write the page of a run.

    Whatever is not drawn here is escaped. An existing file is replaced at once, as a whole.

    Raises:
        ImportError: matplotlib is absent.
        OSError: the file cannot be written.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("page.html").render(
        run=run,
        task="fine-tuning" if isinstance(run.config, FinetuneConfig) else "pretraining",
        cards=list(_cards(run)),
        references=list(_references(run)),
        losses=[_loss(run, name) for name in ("loss", *run.loss_names)],
        final=dict(_final(run)),
        curves=_curves(run),
    )
    temporary = file.with_name(f"{file.name}.tmp")
    temporary.write_text(html, "utf-8")
    temporary.replace(file)


def _cards(run: Run) -> Iterator[Card]:
    looked = run.looked
    of = f"of {looked.total_steps:,}" if looked else ""
    yield Card("steps", f"{run.step:,}", of)
    held_out = first_and_last(run.log, f"{run.validation}/loss")[1]
    if held_out is not None:
        yield Card("held-out loss", f"{held_out:.4g}", "weighted total, last validation")
    final = dict(_final(run))
    for name, value in final.items():
        part, _, metric = name.partition("/")
        asks = f"{part}/image_qa" in final  # a question says nothing of its image
        if metric == "accuracy" or (metric == "matching_accuracy" and not asks):
            yield Card(metric.replace("_", " "), f"{value:.2%}", part.replace("_", " "))
    found = speed(run.log)
    if found:
        yield Card("pairs per second", f"{found.pairs_per_second:,.0f}", "median, all ranks")
        yield Card("waiting for data", f"{found.data_wait_share:.2%}", "of the training time")
    if looked:
        yield Card("parameters", f"{looked.parameters:,}")


def _references(run: Run) -> Iterator[Bar]:
    """Accuracies on the test split, ours first, as its summary has them."""
    if isinstance(run.config, FinetuneConfig):
        accuracy = first_and_last(run.log, f"{run.config.test_split}/accuracy")[1]
        if accuracy is not None:
            yield Bar("this run", 100 * accuracy, ours=True)
            yield from (Bar(name, value) for name, value in run.config.references.items())


def _loss(run: Run, name: str) -> LossRow:
    train, held_out = (
        first_and_last(run.log, f"{part}/{name}") for part in ("train", run.validation)
    )
    return LossRow(name.replace("_", " "), train, held_out)


def _final(run: Run) -> Iterator[tuple[str, float]]:
    """The last metrics of evaluations that are no curves: those after the last step."""
    last = {name: value for _, metrics in run.log for name, value in metrics.items()}
    for name, value in last.items():
        if name.partition("/")[0] not in (*_ELSEWHERE, run.validation):
            yield name, value


def _curves(run: Run) -> Mapping[str, Sequence[Figure]]:
    """Each panel as a picture of its own, so that a page puts as many side by side as fit."""
    figures: dict[str, list[Figure]] = {}
    for group, row in panels(run.log, run.loss_names, run.validation).items():
        for number, panel in enumerate(row):
            svg = _inline(draw([panel], transparent=True), f"{group}-{number}")
            figures.setdefault(group, []).append(Figure(panel.title, svg))
    return figures


def _inline(svg: str, prefix: str) -> Markup:
    """An SVG file as an element of the page: without its head, and with ids of its own."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r' (?:width|height)="[\d.]+pt"', "", element, count=2)
    return Markup(_IDS.sub(rf"\g<1>{prefix}-", element))  # of matplotlib, which escapes its texts
