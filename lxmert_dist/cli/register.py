"""The command ``launch/register.py``: weights into MLflow's model registry."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lxmert_dist.cli.command import frame, run_command
from lxmert_dist.errors import ConfigError, DataError

DESCRIPTION = """\
Register weights that answer questions as a model of MLflow, with signature and input example. Then
mlflow.pyfunc.load_model("models:/NAME/1") opens it anywhere, and `mlflow models serve` serves it.
The registry is that of --tracking-uri."""

EXAMPLES = """\
examples:
  python launch/register.py --from runs/easy_vqa_finetune --name easy_vqa \\
      --image photo.png --question "what shape is in the image?"
  mlflow models serve --model-uri models:/easy_vqa/1 --env-manager local
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = frame(DESCRIPTION, EXAMPLES)
    parser.add_argument("--from", dest="source", required=True, metavar="PATH", help="the weights")
    parser.add_argument("--name", required=True, help="of the registered model")
    parser.add_argument(
        "--image", type=Path, required=True, metavar="FILE", help="of the input example"
    )
    parser.add_argument("--question", required=True, metavar="TEXT", help="about it")
    parser.add_argument(
        "--detector",
        type=Path,
        metavar="DIR",
        help="a Faster R-CNN that goes with the weights (default: the detector without training)",
    )
    parser.add_argument(
        "--tracking-uri",
        default="sqlite:///runs/mlflow.db",
        metavar="URI",
        help="of MLflow (default: %(default)s)",
    )
    return run_command(_register, parser, argv)


def _register(arguments: argparse.Namespace) -> None:
    if not arguments.image.is_file():
        raise ConfigError(f"there is no image {arguments.image}; check --image")
    try:
        import mlflow

        from lxmert_dist.predict.mlflow_model import register
    except ImportError as error:
        raise DataError(
            f"the registry needs {error.name}: pip install 'lxmert_dist[mlflow,detect]'"
        ) from error
    mlflow.set_tracking_uri(arguments.tracking_uri)
    uri = register(
        arguments.source,
        arguments.name,
        arguments.image,
        arguments.question,
        detector=arguments.detector,
    )
    print(f"registered {uri}; mlflow.pyfunc.load_model({uri!r}) answers")  # noqa: T201
