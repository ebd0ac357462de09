"""Pictures of attention; matplotlib is needed here alone, and imported when it is.

Every figure is a grid of layers (rows) by heads (columns): either the image with its regions shaded
by their weights, for one word, or the weights themselves as a heat map.
"""

import re
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from tqdm.auto import tqdm

from lxmert_dist.errors import DataError, unwritable
from lxmert_dist.predict.predictor import PairAttention

Direction = Literal["word_to_region", "region_to_word"]

HEAT_MAPS = {
    "word_to_region": "What words look at among the regions",
    "region_to_word": "What regions look at among the words",
    "language": "What words look at among the words, before they meet the image",
    "vision": "What regions look at among the regions, before they meet the words",
    "cross_language": "What words look at among the words, in the cross layers",
    "cross_vision": "What regions look at among the regions, in the cross layers",
}
"""The kinds of :class:`~lxmert_dist.model.AttentionMaps`, and their titles."""

_UNREAD = ("region_to_word", "cross_vision")
"""Kinds whose last layer the answer does not read."""
_THUMBNAIL, _GAP = 160, 12
"""The longer side of the image in a grid, and what is between two of them, in pixels."""
_COLOURS, _DPI = "YlOrRd", 110
_FEW = 12
"""Up to so many regions or words are named along the columns of a heat map."""
_LETTERS = 11
"""Of a title, for an inch."""
_MANY = 24
"""With more rows than this, one in five is named."""


def save_attention(
    attention: PairAttention, directory: Path, *, progress: bool = False
) -> list[Path]:
    """Write all pictures of one question.

    ``regions.png`` shows and numbers the regions; ``word_to_region/`` and ``region_to_word/`` have
    a picture for each word piece; ``maps/`` has a heat map for each kind of attention.

    Args:
        attention: of the question.
        directory: is made where it is missing; pictures of the same names are replaced.
        progress: show a bar.

    Returns:
        The files.

    Raises:
        DataError: matplotlib is absent, or a file cannot be written.
    """
    directions: tuple[Direction, ...] = ("word_to_region", "region_to_word")
    kinds = [kind for kind in HEAT_MAPS if len(getattr(attention.maps, kind))]
    jobs: list[tuple[str, Any]] = [("regions.png", lambda: regions_figure(attention))]
    for direction in directions:
        for place, token in enumerate(attention.tokens):
            name = f"{direction}/{place:02d}_{re.sub(r'[^0-9a-zA-Z]+', '', token) or 'sign'}.png"
            jobs.append((name, lambda d=direction, p=place: word_figure(attention, p, d)))
    jobs += [(f"maps/{kind}.png", lambda k=kind: heat_figure(attention, k)) for kind in kinds]
    files = []
    for name, draw in tqdm(jobs, desc="pictures", unit="picture", disable=not progress):
        file = directory / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            draw().savefig(file, dpi=_DPI)
        except OSError as error:
            raise DataError(unwritable(file, error)) from error
        files.append(file)
    return files


def word_figure(attention: PairAttention, word: int, direction: Direction) -> Any:
    """The image in every layer and head, its regions shaded by their weights for one word.

    Args:
        attention: of the question.
        word: place of the word piece, in [0, T).
        direction: the weights that the word gives to the regions, which sum to 1 over them, or
            that each region gives to the word.

    Returns:
        A figure of matplotlib.

    Raises:
        DataError: matplotlib is absent.
    """
    maps = getattr(attention.maps, direction)[:, 0].numpy()  # (X, N, T, O) or (X, N, O, T)
    weights = maps[:, :, word] if direction == "word_to_region" else maps[..., word]  # (X, N, O)
    layers, heads = weights.shape[:2]
    small = _faded(attention.pixels)
    height, width = small.shape[:2]
    step = np.array([width + _GAP, height + _GAP])
    canvas = np.full((layers * step[1] - _GAP, heads * step[0] - _GAP, 3), 255, np.uint8)
    for layer, head in np.ndindex(layers, heads):
        top, left = layer * step[1], head * step[0]
        canvas[top : top + height, left : left + width] = small
    token = attention.tokens[word]
    title = {
        "word_to_region": f"Where “{token}” looks: word → region",
        "region_to_word": f"Which regions look at “{token}”: region → word",
    }[direction]
    cell = 1.25 if heads > 4 else 2.0  # inches
    figure, axes = _figure(attention, title, heads * cell + 1.6, layers * cell * height / width)
    axes.imshow(canvas, extent=(0, canvas.shape[1], canvas.shape[0], 0))
    corners = attention.record.boxes * [width, height, width, height]  # (O, 4)
    colours = _shade(axes, corners, weights, step, canvas.shape[:2])
    axes.set_xticks([head * step[0] + width / 2 for head in range(heads)], _heads(heads))
    axes.set_yticks(
        [layer * step[1] + height / 2 for layer in range(layers)],
        _layers(layers, unread=direction in _UNREAD),
    )
    figure.colorbar(colours, ax=axes, label="weight", fraction=0.04, aspect=30, pad=0.01)
    return figure


def heat_figure(attention: PairAttention, kind: str) -> Any:
    """The weights of every layer and head as heat maps; a row sums to 1.

    Args:
        attention: of the question.
        kind: one of ``HEAT_MAPS``.

    Returns:
        A figure of matplotlib.

    Raises:
        DataError: matplotlib is absent.
    """
    weights = getattr(attention.maps, kind)[:, 0].numpy()  # (layers, N, rows, columns)
    layers, heads, rows, columns = weights.shape
    regions = [f"region {number}" for number in range(1, len(attention.labels) + 1)]
    asking = regions if kind in ("region_to_word", "vision", "cross_vision") else attention.tokens
    asked = regions if kind in ("word_to_region", "vision", "cross_vision") else attention.tokens
    canvas = np.full((layers * (rows + 1) - 1, heads * (columns + 1) - 1), np.nan)
    for layer, head in np.ndindex(layers, heads):
        top, left = layer * (rows + 1), head * (columns + 1)
        canvas[top : top + rows, left : left + columns] = weights[layer, head]
    few, low = columns <= _FEW, rows > _MANY
    figure, axes = _figure(
        attention,
        HEAT_MAPS[kind],
        heads * (columns + 1) * (0.2 if few else 0.06) + 2.5,
        layers * (rows + 1) * (0.08 if low else 0.17),
    )
    shown = axes.imshow(canvas, cmap=_COLOURS, vmin=0, aspect="auto", interpolation="nearest")
    named = range(0, rows, 5 if low else 1)
    axes.set_yticks(
        [layer * (rows + 1) + row for layer in range(layers) for row in named],
        [asking[row] for row in named] * layers,
        fontsize=7,
        parse_math=False,
    )
    axes.set_xticks(
        [head * (columns + 1) + (columns - 1) / 2 for head in range(heads)], _heads(heads)
    )
    if few:
        below = axes.secondary_xaxis("bottom")
        below.set_frame_on(False)
        below.set_xticks(
            [head * (columns + 1) + column for head in range(heads) for column in range(columns)],
            list(asked) * heads,
            fontsize=7,
            rotation=90,
            parse_math=False,
        )
    else:
        axes.set_xlabel(
            f"in each block, from left to right: {asked[0]} to {asked[-1]}", parse_math=False
        )
    sides = axes.secondary_yaxis("right")
    sides.set_yticks(
        [layer * (rows + 1) + (rows - 1) / 2 for layer in range(layers)],
        _layers(layers, unread=kind in _UNREAD),
    )
    sides.tick_params(length=0)
    sides.set_frame_on(False)
    figure.colorbar(shown, ax=axes, label="weight", fraction=0.04, aspect=30, pad=0.02)
    return figure


def regions_figure(attention: PairAttention) -> Any:
    """The image with its regions, numbered, and what the detector takes them for.

    Returns:
        A figure of matplotlib.

    Raises:
        DataError: matplotlib is absent.
    """
    record, pixels = attention.record, attention.pixels
    height, width = pixels.shape[:2]
    figure, axes = _figure(attention, "Regions", 9.5, 6.0 * min(height / width, 1.5))
    axes.imshow(pixels, extent=(0, width, height, 0))
    axes.set_xticks([])
    axes.set_yticks([])
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    lines = []
    for place, box in enumerate(record.boxes):
        colour = colormaps["tab10"](place % 10)
        left, top, right, bottom = box * [width, height, width, height]
        axes.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, lw=1.5)
        )
        to_the_right, below = place % 4 in (1, 2), place % 4 > 1  # so that fewer numbers collide
        axes.text(
            right if to_the_right else left,
            bottom if below else top,
            f"{place + 1}",
            color="white",
            fontsize=8,
            ha="right" if to_the_right else "left",
            va="bottom" if below else "top",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
        )
        lines.append(f"{place + 1}  {attention.labels[place]}  {record.object_scores[place]:.2f}")
    text = "\n".join(lines)
    axes.text(1.02, 1, text, transform=axes.transAxes, va="top", fontsize=8, parse_math=False)
    return figure


def _figure(attention: PairAttention, title: str, width: float, height: float) -> tuple[Any, Any]:
    """An empty figure with a frameless axes, and above it a title, the question and the answer."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError("drawing needs matplotlib: pip install 'lxmert_dist[plot]'") from error

    width = max(width, 6.0)
    figure = Figure(figsize=(width, height + 1.3), layout="constrained")
    answer = attention.prediction
    asked = f"{attention.question}  →  {answer.answer} ({answer.score:.2f})"
    lines = [title, *wrap(asked, int(width * _LETTERS))]
    figure.suptitle("\n".join(lines), fontsize=11, parse_math=False)
    axes = figure.subplots()
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.set_frame_on(False)
    return figure, axes


def _shade(
    axes: Any,
    corners: Float[np.ndarray, "O 4"],
    weights: Float[np.ndarray, "X N O"],
    step: np.ndarray,
    size: tuple[int, int],
) -> Any:
    """Colour all regions of all cells; where several lie on each other, the heaviest counts.

    Args:
        axes: with the images.
        corners: left, top, right, bottom of the regions in the first image, in pixels.
        weights: of every layer, head and region.
        step: from an image to the next, to the right and down.
        size: height and width of all images together.

    Returns:
        What a colour bar is made of.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    most = float(weights.max())
    scale = ScalarMappable(Normalize(0, most), _COLOURS)
    order = np.argsort(weights, axis=None, kind="stable")  # the heaviest is drawn last
    heat, frames = np.zeros(size), []
    for layer, head, region in np.stack(np.unravel_index(order, weights.shape), axis=1):
        shift = np.array([head, layer]) * step
        left, top, right, bottom = corners[region] + np.tile(shift, 2)
        frames.append(Rectangle((left, top), right - left, bottom - top))
        rows, columns = slice(round(top), round(bottom)), slice(round(left), round(right))
        heat[rows, columns] = weights[layer, head, region]
    fills = scale.to_rgba(heat)  # (height, width, 4)
    fills[..., 3] = 0.7 * (heat / most) ** 0.5
    axes.imshow(fills, extent=(0, size[1], size[0], 0), interpolation="nearest")
    strength = weights.ravel()[order] / most
    edges = scale.to_rgba(weights.ravel()[order])
    edges[:, 3] = 0.1 + 0.9 * strength
    axes.add_collection(
        PatchCollection(
            frames, facecolors="none", edgecolors=edges, linewidths=0.3 + 1.5 * strength
        )
    )
    return scale


def _faded(pixels: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The image small, gray and light, so that colours over it show."""
    height, width = pixels.shape[:2]
    ratio = _THUMBNAIL / max(height, width)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    gray = np.asarray(Image.fromarray(pixels).convert("L").resize(size), np.float32)
    light = (255 - (255 - gray) * 0.55).astype(np.uint8)
    return np.repeat(light[:, :, None], 3, axis=2)


def _heads(count: int) -> list[str]:
    return [f"head {number}" for number in range(1, count + 1)]


def _layers(count: int, *, unread: bool) -> list[str]:
    names = [f"layer {number}" for number in range(1, count + 1)]
    if unread:
        names[-1] += "\n(not read by\nthe answer)"
    return names
