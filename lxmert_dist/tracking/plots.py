"""Curves out of a run's log, as SVG; matplotlib is needed here alone, and imported when it is."""

import io
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from lxmert_dist.tracking.figures import Log
from lxmert_dist.tracking.tracker import Tracker

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 400
"""Drawn a curve; of a longer one the means of as many stretches."""

_FAR = 6.0
"""How often its least value a loss may be before its axis is logarithmic."""
_COLUMNS = 3
_WIDTH, _HEIGHT = 3.9, 2.6
"""Of a panel, in inches."""
_COLOURS = ("#2f7ec4", "#e07b00", "#1a936f", "#b0489a")
"""Told apart by the colour-blind, on white and on black."""
_GREY = "#8a8f98"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and found by a search
    "svg.hashsalt": "lxmert_dist",  # equal logs give equal files
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.0,
    "axes.edgecolor": _GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.limits": (-3, 5),
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "grid.color": _GREY,
    "grid.alpha": 0.3,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
}
_log = logging.getLogger(__name__)

Scale = Literal["linear", "log"]


@dataclass(frozen=True)
class Curve:
    """One metric over steps, finite numbers only.

    ``dots`` marks each value, for those that are few.
    """

    label: str
    steps: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    dots: bool = False


@dataclass(frozen=True)
class Panel:
    """Curves over one pair of axes; each has a value at least."""

    title: str
    curves: Sequence[Curve]
    unit: str = ""
    scale: Scale = "linear"
    from_zero: bool = False


def panels(log: Log, loss_names: Sequence[str], validation: str) -> dict[str, list[Panel]]:
    """What a run's log has to show, by figure: losses, accuracies, optimization, throughput.

    Args:
        log: steps and their metrics, as ``read_metrics`` gives them.
        loss_names: of the task.
        validation: what the metrics of the validation begin with.

    Returns:
        The figures that have a panel.
    """
    names = dict.fromkeys(name.partition("/")[2] for _, metrics in log for name in metrics)
    accuracies = [name for name in names if name.endswith("accuracy")]
    losses = ["loss", *loss_names] if len(loss_names) > 1 else loss_names
    figures = {
        "losses": [_judged(log, name, validation) for name in losses],
        "accuracies": [_judged(log, name, validation, "%") for name in accuracies],
        "optimization": [
            _single(log, "train/learning_rate", "learning rate", from_zero=True),
            _single(log, "train/gradient_norm", "gradient norm, before clipping", scale="log"),
            _single(log, "train/loss_scale", "loss scale of fp16", scale="log"),
        ],
        "throughput": [
            _single(log, "train/pairs_per_second", "pairs per second, all ranks", from_zero=True),
            _single(
                log, "train/data_wait_share", "time spent waiting for data", "%", from_zero=True
            ),
            _single(log, "data/bytes_per_second", "read from the store", "MB/s", from_zero=True),
        ],
    }
    kept = {name: [one for one in row if one.curves] for name, row in figures.items()}
    return {name: row for name, row in kept.items() if row}


def draw(row: Sequence[Panel], *, transparent: bool = False) -> str:
    """One SVG of panels, in rows of three; ``transparent`` leaves out its white ground.

    Raises:
        ImportError: matplotlib is absent.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = min(len(row), _COLUMNS)
    rows = -(-len(row) // columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(columns * _WIDTH, rows * _HEIGHT), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for one, panel in zip(axes, row, strict=False):
            _fill(one, panel)
        for one in axes[len(row) :]:
            one.set_axis_off()
        text = io.StringIO()
        no_date = {"Date": None, "Creator": None}
        figure.savefig(text, format="svg", metadata=no_date, transparent=transparent)
    return text.getvalue()


def log_curves(tracker: Tracker, log: Log, loss_names: Sequence[str], validation: str) -> None:
    """Give a tracker ``plots/<figure>.svg`` of a run; see :func:`panels`.

    What goes wrong is a warning: the run is done, and must not fail for its pictures.
    """
    try:
        for name, row in panels(log, loss_names, validation).items():
            tracker.log_text(draw(row), f"plots/{name}.svg")
    except ImportError as error:
        _log.warning(
            "warning: no curves are drawn, since matplotlib cannot be imported (%s; "
            "pip install 'lxmert_dist[plot]')",
            error,
        )
    except Exception as error:  # whatever a drawing library may raise
        _log.warning("warning: the curves could not be drawn: %r", error)


def _judged(log: Log, name: str, validation: str, unit: str = "") -> Panel:
    """A metric on training pairs and on held-out ones; a loss that falls far, by logarithms."""
    parts = [_curve(log, f"{part}/{name}", part, unit) for part in ("train", validation)]
    parts = [one for one in parts if len(one.steps)]
    title = name.removesuffix("_accuracy") if unit else name
    least, most = (f([f(one.values) for one in parts], default=1.0) for f in (min, max))
    scale: Scale = "log" if not unit and 0 < _FAR * least < most else "linear"
    return Panel(title.replace("_", " "), parts, unit, scale)


def _single(
    log: Log,
    name: str,
    title: str,
    unit: str = "",
    *,
    scale: Scale = "linear",
    from_zero: bool = False,
) -> Panel:
    """A metric of its own; on a logarithmic scale without zeros."""
    curve = _curve(log, name, "", unit)
    if scale == "log":
        above = curve.values > 0
        curve = Curve("", curve.steps[above], curve.values[above], curve.dots)
    return Panel(title, [curve] if len(curve.steps) else [], unit, scale, from_zero)


def _curve(log: Log, name: str, label: str, unit: str) -> Curve:
    factor = {"%": 100.0, "MB/s": 1e-6}.get(unit, 1.0)
    found = [(step, metrics[name]) for step, metrics in log if math.isfinite(_of(metrics, name))]
    steps, values = np.array([s for s, _ in found]), np.array([v for _, v in found])
    dots = len(found) <= 30
    if len(found) > MAX_POINTS:
        steps, values = _means(steps), _means(values)
    return Curve(label, steps.astype(np.int64), values.astype(np.float64) * factor, dots)


def _of(metrics: Mapping[str, float], name: str) -> float:
    return metrics.get(name, math.nan)


def _means(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Of ``MAX_POINTS`` stretches that differ in length by one at most."""
    return np.array([stretch.mean() for stretch in np.array_split(values, MAX_POINTS)])


def _fill(axes: "Axes", panel: Panel) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    for curve, colour in zip(panel.curves, _colours(panel), strict=True):
        axes.plot(
            curve.steps,
            curve.values,
            label=curve.label,
            color=colour,
            linewidth=1.4,
            marker="o" if curve.dots else "",
            markersize=3.0,
        )
    axes.set_title(panel.title, loc="left")
    axes.set(xlabel="step", ylabel=panel.unit, yscale=panel.scale)
    if panel.from_zero:
        axes.set_ylim(0, None)
    if panel.scale == "log":  # 0.5, not a power of ten in mathematical notation
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axes.grid(visible=True)
    if any(curve.label for curve in panel.curves):
        axes.legend()


def _colours(panel: Panel) -> Iterator[str]:
    """Training and held-out curves keep their colour where one of them is absent."""
    for place, curve in enumerate(panel.curves):
        yield _COLOURS[place if curve.label in ("train", "") else 1]
