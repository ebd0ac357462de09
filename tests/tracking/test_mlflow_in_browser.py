"""A small run in MLflow's own pages, in a real browser: its name, its loss chart, its curves."""

import json
from urllib.parse import quote

import numpy as np
import pytest

from browser import browser
from lxmert_dist.config import TrackingConfig
from lxmert_dist.tracking import build_tracker
from mlflow_server import mlflow_server
from runs import pretrain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NAME = "a small run, looked at"
WIDE = (1900, 1000)
"""What MLflow needs beside its two side bars."""
READY_S = 120
"""A page of MLflow is an application that loads for a while on a busy machine."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("mlflow")
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(folder) as server:
        server.start()
        yield server


@pytest.fixture(scope="module")
def run(server, tiny_store, tmp_path_factory):
    """The run that MLflow has of twelve steps, with three lines of losses."""
    import mlflow

    directory = tmp_path_factory.mktemp("runs") / "run"
    settings = [f'name="{NAME}"', "tracking.mlflow=true", f"tracking.uri={server.uri}"]
    pretrain(directory, tiny_store, *settings, "tracking.curves=true")
    client = mlflow.MlflowClient(server.uri)
    [run] = client.search_runs([client.get_experiment_by_name("lxmert_dist").experiment_id])
    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("chromium")) as page:
        yield page


def test_the_experiment_lists_the_run(page, server, run):
    place = f"#/experiments/{run.info.experiment_id}/runs?workflowType=machine_learning"
    page.open(f"{server.uri}/{place}", WIDE)
    page.wait_for(f"document.body.innerText.includes({json.dumps(NAME)})", READY_S)


def test_a_run_that_starts_from_it_is_listed_below_it(page, server, run, tmp_path):
    tracker = build_tracker(
        TrackingConfig(uri=server.uri),
        directory=tmp_path,
        run_name="one that starts from it",
        run_id=None,
        resume_step=None,
        tags={},
        parent=run.info.run_id,
    )
    tracker.close("FINISHED")
    place = f"#/experiments/{run.info.experiment_id}/runs?workflowType=machine_learning"
    page.open(f"{server.uri}/?nested{place}", WIDE)
    unfold = "document.querySelector('[data-component-id*=runnamecellrenderer]')"
    page.wait_for(f"{unfold} !== null", READY_S)
    listed = "document.body.innerText.includes('one that starts from it')"
    assert not page.evaluate(listed), "it is folded away"
    page.evaluate(f"{unfold}.click()")
    page.wait_for(listed, READY_S)


def test_the_loss_chart_is_drawn(page, server, run):
    options = {
        "runs": f'["{run.info.run_id}"]',
        "metric": '"train/loss"',
        "experiments": f'["{run.info.experiment_id}"]',
        "plot_metric_keys": '["train/loss"]',
        "plot_layout": '{"autosize":true,"xaxis":{},"yaxis":{}}',
        "x_axis": "step",
        "y_axis_scale": "linear",
        "line_smoothness": "1",
        "show_point": "false",
        "deselected_curves": "[]",
        "last_linear_y_axis_range": "[]",
    }
    query = "&".join(f"{name}={quote(value)}" for name, value in options.items())
    page.open(f"{server.uri}/?chart#/metric?{query}", WIDE)
    line = ".js-plotly-plot path.js-line"
    page.wait_for(f"document.querySelector('{line}') !== null", READY_S)
    page.wait_for(f"document.body.innerText.includes({json.dumps(NAME)})", READY_S)
    at = page.rectangles(line)[0]
    assert at["width"] > 300
    assert at["height"] > 50
    points = page.evaluate(f"document.querySelector('{line}').getAttribute('d')")
    assert points.count("L") == 2, "lines between the losses of steps 4, 8 and 12"
    colour = page.evaluate(f"getComputedStyle(document.querySelector('{line}')).stroke")
    near = np.abs(cut(page.screenshot(), at).astype(int) - rgb(colour)).max(axis=-1) < 40
    assert near.any(axis=0).mean() > 0.9, "from the first step to the last"


def test_the_curves_of_the_run_are_among_its_artifacts(page, server, run):
    place = f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts"
    page.open(f"{server.uri}/?artifact#/{place}/plots/losses.svg", WIDE)
    image = "img[alt='plots/losses.svg']"
    page.wait_for(f'document.querySelector("{image}")?.naturalWidth > 500', READY_S)
    [at] = page.rectangles(image)
    blue = np.abs(cut(page.screenshot(), at).astype(int) - (47, 126, 196)).max(axis=-1) < 60
    assert blue.sum() > 100


def cut(shot: np.ndarray, at: dict) -> np.ndarray:
    rows = slice(int(at["y"]), int(at["y"] + at["height"]) + 1)
    return shot[rows, int(at["x"]) : int(at["x"] + at["width"]) + 1]


def rgb(colour: str) -> list[int]:
    return [int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
