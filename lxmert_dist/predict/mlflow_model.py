"""The model that MLflow's registry holds: ``mlflow.pyfunc.load_model`` opens it, and it answers.

It is logged as code and an export (safetensors, JSON), so that nothing is pickled.
"""

import base64
import binascii
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel
from mlflow.types.schema import ColSpec, DataType, Schema

from lxmert_dist.errors import DataError
from lxmert_dist.interop import Request, convert
from lxmert_dist.interop.source import Guess
from lxmert_dist.opening import open_image
from lxmert_dist.predict.predictor import Pixels, Predictor, Question
from lxmert_dist.predict.weights import find_source

_CODE = """\
from mlflow.models import set_model

from lxmert_dist.predict.mlflow_model import AnsweringModel

set_model(AnsweringModel())
"""
_DATA = "data:"

SIGNATURE = ModelSignature(
    Schema([ColSpec(DataType.string, "image"), ColSpec(DataType.string, "question")]),
    Schema([ColSpec(DataType.string, "answer"), ColSpec(DataType.double, "score")]),
)
"""``image``: a path that the server can read, or ``data:image/png;base64,…``."""


class AnsweringModel(PythonModel):  # type: ignore[misc]
    """A predictor behind MLflow's door."""

    def load_context(self, context: Any) -> None:
        """Open the export, and the detector that was logged with it."""
        detector = context.artifacts.get("detector")
        self.predictor = Predictor.load(context.artifacts["export"], detector=detector)

    # Without hints, from which MLflow would guess another signature.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Answer the questions of a table with the columns of :data:`SIGNATURE`, in order."""
        rows = pd.DataFrame(model_input)[["image", "question"]].itertuples(index=False)
        asked = [
            Question(_image(str(image)), str(question), str(place))
            for place, (image, question) in enumerate(rows)
        ]
        found = self.predictor.batch(asked, top=1)
        return pd.DataFrame(
            {"answer": [one.answer for one in found], "score": [one.score for one in found]}
        )


def register(
    place: str, name: str, example: Path, question: str, *, detector: Path | None = None
) -> str:
    """Log weights as a model of MLflow, and register them; the tracking URI is MLflow's own.

    Where a run of the same tracking server made the weights, the model is logged in it.

    Args:
        place: a run, a checkpoint, an export, or what the released code or Hugging Face wrote.
        name: of the registered model; a new version, if there is one of that name.
        example: an image file, kept as the input example.
        question: about it.
        detector: directory of a Faster R-CNN; None takes
            the one without training, if the weights were trained with it.

    Returns:
        The URI that ``mlflow.pyfunc.load_model`` takes: ``models:/<name>/<version>``.

    Raises:
        CheckpointError, ConfigError, DataError: as ``Predictor.load``; nothing was registered.
    """
    source = find_source(place, Guess())
    encoded = base64.b64encode(example.read_bytes()).decode()
    rows = pd.DataFrame({"image": [f"{_DATA}image;base64,{encoded}"], "question": [question]})
    with tempfile.TemporaryDirectory() as folder:
        export, code = Path(folder) / "export", Path(folder) / "model.py"
        convert(source, Request(to="lxmert_dist", out=export))
        # Every error of theirs, and of the example's, comes before anything is logged.
        Predictor.load(export, detector=detector)(example, question)
        code.write_text(_CODE)
        artifacts = {"export": str(export)}
        if detector is not None:
            artifacts["detector"] = str(detector)
        with mlflow.start_run(run_id=_known(source.weights.run_id), run_name=f"register {name}"):
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(code),
                artifacts=artifacts,
                signature=SIGNATURE,
                input_example=rows,
                registered_model_name=name,
                pip_requirements=["lxmert_dist[detect]"],
            )
    return f"models:/{name}/{logged.registered_model_version}"


def _known(run_id: str) -> str | None:
    """The run, if this tracking server has it."""
    from mlflow.exceptions import MlflowException

    try:
        return str(mlflow.get_run(run_id).info.run_id) if run_id else None
    except MlflowException:
        return None


def _image(text: str) -> str | Pixels:
    """A path as it is; what a ``data:`` URI holds as pixels."""
    if not text.startswith(_DATA):
        return text
    try:
        data = base64.b64decode(text.partition(",")[2], validate=True)
    except binascii.Error as error:
        raise DataError(f"{text[:40]}…: is no base64 ({error}); send data:…;base64,…") from error
    return open_image(data, "the image of the request")
