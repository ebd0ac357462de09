"""Pictures of attention: which files there are, and that colours are where and what they say."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_predictor import QUESTION, Colours

from lxmert_dist.errors import DataError
from lxmert_dist.predict import PairAttention, Predictor
from lxmert_dist.predict.pictures import (
    HEAT_MAPS,
    heat_figure,
    regions_figure,
    save_attention,
    word_figure,
)

SIZE = 160
"""Longer side of a small image in a grid."""


@pytest.fixture(scope="module")
def attention(export: Path, photos: list[Path]) -> PairAttention:
    return Predictor.load(export, detector=Colours()).attention(photos[0], QUESTION)


def test_attention_belongs_to_the_answer(
    attention: PairAttention, predictor: Predictor, photos: list[Path]
) -> None:
    assert attention.prediction == predictor(photos[0], QUESTION)
    assert attention.tokens == ("[CLS]", "ba", "de", "fi", "[UNK]", "[SEP]")
    assert attention.maps.word_to_region.shape == (2, 1, 4, 6, 4)
    assert attention.maps.region_to_word.shape == (2, 1, 4, 4, 6)
    assert attention.maps.language.shape == (2, 1, 4, 6, 6)
    assert len(attention.labels) == 4
    assert attention.labels[0].split()[1] == "corner"
    with pytest.raises(DataError, match="is empty"):
        predictor.attention(photos[0], "")


@pytest.mark.parametrize("direction", ["word_to_region", "region_to_word"])
def test_regions_have_the_colours_of_their_weights(
    attention: PairAttention, direction: str
) -> None:
    word = 2
    figure = word_figure(attention, word, direction)
    grid, bar = figure.axes
    maps = getattr(attention.maps, direction)[:, 0].numpy()
    weights = maps[:, :, word] if direction == "word_to_region" else maps[..., word]
    image, fills = (shown.get_array() for shown in grid.images)
    height = round(SIZE * 40 / 60)
    step = np.array([height + 12, SIZE + 12])
    assert image.shape[:2] == fills.shape[:2] == (2 * step[0] - 12, 4 * step[1] - 12)
    scale = bar.collections[-1] if bar.collections else None
    assert scale is not None
    for (layer, head, region), weight in np.ndenumerate(weights):
        left, top, right, bottom = attention.record.boxes[region] * [SIZE, height, SIZE, height]
        middle = np.array([layer, head]) * step + [(top + bottom) / 2, (left + right) / 2]
        found = fills[tuple(middle.astype(int))]
        expected = scale.to_rgba(float(weight))
        np.testing.assert_allclose(found[:3], expected[:3], atol=0.02)
        assert found[3] == pytest.approx(0.7 * (weight / weights.max()) ** 0.5, abs=1e-6)
    assert not fills[step[0] - 6, :, 3].any(), "between the images"
    assert [tick.get_text() for tick in grid.get_xticklabels()] == [
        f"head {n}" for n in range(1, 5)
    ]
    unread = "not read" in grid.get_yticklabels()[-1].get_text()
    assert unread == (direction == "region_to_word")
    assert "“de”" in figure.get_suptitle()
    assert QUESTION in figure.get_suptitle()


def test_of_regions_on_each_other_the_heaviest_counts(attention: PairAttention) -> None:
    whole = np.tile(np.array([0, 0, 1, 1], np.float32), (4, 1))
    nested = replace(attention, record=replace(attention.record, boxes=whole))
    fills = word_figure(nested, 1, "word_to_region").axes[0].images[1].get_array()
    weights = attention.maps.word_to_region[:, 0, :, 1].numpy()
    expected = 0.7 * (weights[0, 0].max() / weights.max()) ** 0.5
    assert fills[10, 10, 3] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", list(HEAT_MAPS))
def test_heat_maps_hold_the_weights(attention: PairAttention, kind: str) -> None:
    weights = getattr(attention.maps, kind)[:, 0].numpy()
    layers, heads, rows, columns = weights.shape
    shown = heat_figure(attention, kind).axes[0].images[0].get_array()
    for layer, head in np.ndindex(layers, heads):
        top, left = layer * (rows + 1), head * (columns + 1)
        block = shown[top : top + rows, left : left + columns]
        np.testing.assert_array_equal(block, weights[layer, head])


def test_every_picture_is_written(attention: PairAttention, tmp_path: Path) -> None:
    one = replace(
        attention,
        tokens=("[CLS]", "##ba", "$", "a/b", "$x_^$", "[SEP]"),
        question="does it cost $5, $\\frac$ or more than that, " * 3,
        labels=("$_", "$^$", "a", "b"),
    )
    files = save_attention(one, tmp_path / "out")
    names = {str(file.relative_to(tmp_path / "out")) for file in files}
    words = {"00_CLS", "01_ba", "02_sign", "03_ab", "04_x", "05_SEP"}
    folders = ("word_to_region", "region_to_word")
    expected = {f"{folder}/{word}.png" for folder in folders for word in words}
    assert names == expected | {f"maps/{kind}.png" for kind in HEAT_MAPS} | {"regions.png"}
    for file in files:
        with Image.open(file) as picture:
            assert min(picture.size) > 100
    assert len(regions_figure(attention).axes[0].patches) == 4


def test_what_cannot_be_drawn(
    attention: PairAttention, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        save_attention(attention, tmp_path / "file")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DataError, match=r"pip install 'lxmert_dist\[plot\]'"):
        heat_figure(attention, "language")
