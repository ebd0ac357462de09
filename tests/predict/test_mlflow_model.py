"""An export in MLflow's registry, opened and asked as its users do."""

import base64

import mlflow
import pandas as pd
import pytest
from tiny_predictor import QUESTION, make_export, make_image

from lxmert_dist.cli.register import main
from lxmert_dist.detect import load_detector
from lxmert_dist.predict import Predictor
from tiny_rcnn import save_tiny_detector

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # MLflow warns of itself, in many words
]


def test_a_registered_model_answers(tmp_path, monkeypatch):
    detector = save_tiny_detector(tmp_path / "detector")
    opened = load_detector(detector)
    export = make_export(
        tmp_path / "export", {"feature_dim": opened.feature_dim}, detector=opened.name
    )
    image = make_image(tmp_path / "photo.png", width=90)
    monkeypatch.chdir(tmp_path)
    uri = "sqlite:///mlflow.db"
    arguments = ["--from", str(export), "--name", "tiny", "--tracking-uri", uri]
    arguments += ["--image", str(image), "--question", QUESTION]
    assert main(arguments) == 2  # which detector?
    client = mlflow.MlflowClient(uri)
    assert client.search_registered_models() == []
    assert main([*arguments, "--detector", str(detector)]) == 0

    expected = Predictor.load(export, detector=detector)(image, QUESTION)
    model = mlflow.pyfunc.load_model("models:/tiny/1")
    inline = "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()
    asked = pd.DataFrame({"image": [str(image), inline], "question": [QUESTION] * 2})
    found = model.predict(asked)
    assert found["answer"].tolist() == [expected.answer] * 2
    assert found["score"].tolist() == pytest.approx([expected.score] * 2)
    assert model.metadata.signature.inputs.input_names() == ["image", "question"]
    example = model.input_example
    assert example["question"].tolist() == [QUESTION]
    assert model.predict(example)["answer"].tolist() == [expected.answer]

    files = [path for path in tmp_path.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt")]
    assert files == []
    assert main([*arguments, "--detector", str(detector)]) == 0
    assert len(client.search_model_versions("name='tiny'")) == 2
