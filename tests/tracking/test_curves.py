"""Curves of a run: what is drawn of its log, when, and that it never hurts."""

import math
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from lxmert_dist.config import PretrainConfig, load_config
from lxmert_dist.tasks import PretrainingTask
from lxmert_dist.tracking import NullTracker, log_curves, plots, read_metrics
from runs import pretrain

pytest.importorskip("matplotlib")
SVG = "{http://www.w3.org/2000/svg}"
LOSSES = ("masked_lm", "matching")


def a_log(steps: int = 20) -> list[tuple[int, dict[str, float]]]:
    log = [
        (
            step,
            {
                "train/loss": 9.0 / step,
                "train/masked_lm": 5.0 / step,
                "train/matching": 4.0 / step,
                "train/matching_accuracy": 1 - 0.5 / step,
                "train/learning_rate": 1e-4,
                "train/gradient_norm": 2.0,
                "train/pairs_per_second": 100.0,
                "train/data_wait_share": 0.25,
            },
        )
        for step in range(1, steps + 1)
    ]
    return [*log, (steps, {"valid/loss": 1.0, "valid/masked_lm": 0.5})]


def texts(svg: str) -> list[str]:
    return ["".join(one.itertext()) for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_every_loss_has_a_panel_with_training_and_held_out_pairs():
    figures = plots.panels(a_log(), LOSSES, "valid")
    assert list(figures) == ["losses", "accuracies", "optimization", "throughput"]
    assert [one.title for one in figures["losses"]] == ["loss", "masked lm", "matching"]
    assert [[c.label for c in one.curves] for one in figures["losses"]] == [
        ["train", "valid"],
        ["train", "valid"],
        ["train"],
    ]
    [accuracy] = figures["accuracies"]
    np.testing.assert_allclose(accuracy.curves[0].values[:2], [50.0, 75.0])
    [rate, wait] = figures["throughput"]
    assert (rate.curves[0].values == 100.0).all()
    assert (wait.curves[0].values == 25.0).all()


def test_a_task_of_one_loss_has_no_panel_for_the_same_total():
    log = [(1, {"train/loss": 2.0, "train/answer_bce": 2.0})]
    [panel] = plots.panels(log, ("answer_bce",), "valid")["losses"]
    assert panel.title == "answer bce"


def test_a_long_log_is_drawn_by_means_and_keeps_its_ends():
    log = [(step, {"train/loss": float(step)}) for step in range(1, 10_001)]
    [panel] = plots.panels(log, ("loss",), "valid")["losses"]
    [curve] = panel.curves
    assert len(curve.steps) == plots.MAX_POINTS
    np.testing.assert_allclose(curve.values[[0, -1]], [13.0, 9988.0])  # the middles of 1-25, 9976-
    assert np.abs(curve.steps - curve.values).max() <= 1
    assert not curve.dots


def test_what_is_not_finite_is_left_out_and_zeros_of_a_logarithmic_scale_too():
    log = [
        (1, {"train/loss": math.nan, "train/gradient_norm": 0.0}),
        (2, {"train/loss": 3.0, "train/gradient_norm": 0.5}),
        (3, {"train/loss": math.inf}),
    ]
    figures = plots.panels(log, ("loss",), "valid")
    assert figures["losses"][0].curves[0].steps.tolist() == [2]
    assert figures["optimization"][0].curves[0].values.tolist() == [0.5]
    assert plots.panels([(1, {"train/loss": math.nan})], ("loss",), "valid") == {}


def test_a_figure_is_an_svg_with_axes_and_words_and_the_same_each_time():
    row = plots.panels(a_log(), LOSSES, "valid")["losses"]
    svg = plots.draw(row)
    said = texts(svg)
    assert said.count("step") == 3
    assert said.count("train") == 3
    assert said.count("valid") == 2
    assert {"loss", "masked lm", "matching"} <= set(said)
    assert plots.draw(row) == svg


@pytest.mark.parametrize(
    ("broken", "said"),
    [("matplotlib", "pip install 'lxmert_dist[plot]'"), ("tracker", "could not be drawn")],
)
def test_a_run_never_fails_for_its_pictures(broken, said, monkeypatch, caplog):
    class Broken(NullTracker):
        def log_text(self, text: str, name: str) -> None:
            raise ValueError("no room")

    if broken == "matplotlib":
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    log_curves(Broken(), a_log(), LOSSES, "valid")
    [record] = caplog.records
    assert said in record.getMessage()


def test_a_run_leaves_its_curves_and_settings_in_its_directory(tiny_store, tmp_path):
    pretrain(tmp_path, tiny_store, "tracking.curves=true")
    files = {path.name: path.read_text() for path in (tmp_path / "plots").iterdir()}
    assert set(files) == {"losses.svg", "accuracies.svg", "optimization.svg", "throughput.svg"}
    for name in PretrainingTask.loss_names:
        assert name.replace("_", " ") in texts(files["losses.svg"])
    config = load_config(PretrainConfig, tmp_path / "config.toml")
    assert config.data.store == tiny_store
    assert config.train.max_steps == 12
    assert "python" in (tmp_path / "environment.json").read_text()
    assert read_metrics(tmp_path / "metrics.jsonl")
