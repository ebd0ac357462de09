"""The command ``launch/extract.py``: from photographs to a store of features."""

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lxmert_dist.cli.command import frame, run_command
from lxmert_dist.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lxmert_dist.detect import FasterRcnnDetector
    from lxmert_dist.ingest.pool import Mapper

EXAMPLES = """\
examples:
  python launch/extract.py --images photos/ --detector frcnn/ --out data/features
  python launch/extract.py --images s3://bucket/shards --detector s3://bucket/frcnn \\
      --out s3://bucket/features --ray --workers 8 --gpus-per-worker 1
  python launch/extract.py --images list.txt --detector frcnn/ --out data/features \\
      --set selection.rule=adaptive
  python launch/prepare.py own --features data/features --sentences mine.jsonl --out data/mine
IMAGES is a folder (searched to its depths for images and .tar files), a .tar file, or a list with a
URI a line (and, if you like, a tab and the image's name). An image is called as its file, relative
to the folder and without suffix. DETECTOR is a folder with detector.toml, the names of classes and
one file of weights, such as launch/train_detector.py leaves. Images that cannot be opened are named
in OUT.refused.jsonl, with the reason, and stop nothing. What was interrupted goes on with the same
command; until it is finished, features are kept in OUT.stage.
Credentials and endpoint of S3 come from the usual variables: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION.
"""


@dataclass(frozen=True)
class DetectorFiles:
    """Implements ``ingest.extraction.DetectorSource``: a folder of any URI."""

    uri: str
    overrides: tuple[str, ...] = ()
    device: str = "cpu"

    def load(self) -> "FasterRcnnDetector":
        """Open it, by way of a copy if it is elsewhere.

        Raises:
            ConfigError: there is no detector, a setting of it is wrong, or there is no such device.
            CheckpointError: its weights are missing, damaged or of another detector.
            StoreError: the place is out of reach.
        """
        import torch

        from lxmert_dist.detect import load_detector
        from lxmert_dist.store import uri as uris

        _require_device(self.device)
        if self.device == "cpu":  # workers share the cores; and so rounding is the same everywhere
            torch.set_num_threads(1)
        here = uris.local_path(self.uri)
        if here is not None:
            return load_detector(here, overrides=self.overrides, device=self.device)
        with tempfile.TemporaryDirectory(prefix="lxmert_dist_") as scratch:
            for name in uris.list_dir(self.uri):
                uris.download(uris.join(self.uri, name), Path(scratch) / name)
            try:
                return load_detector(Path(scratch), overrides=self.overrides, device=self.device)
            except ConfigError as error:
                raise ConfigError(str(error).replace(scratch, uris.shown(self.uri))) from error


def _require_device(name: str) -> None:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name} must be cpu, cuda or e.g. cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name}: PyTorch finds {torch.cuda.device_count()} GPUs here; "
            "choose another, or cpu"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = frame("Detect regions in images, and build a feature store of them.", EXAMPLES)
    parser.add_argument("--images", required=True, metavar="URI", help="folder, tar file or list")
    parser.add_argument("--detector", required=True, metavar="URI", help="folder of a Faster R-CNN")
    parser.add_argument("--out", required=True, metavar="URI", help="where the store will be")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting of the detector, as --set selection.rule=adaptive; may be repeated",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a finished store")
    parser.add_argument("--seed", type=int, default=9595, help="of the order (default 9595)")
    parser.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help="of the features in the store (default float16)",
    )
    parser.add_argument(
        "--max-pixels", type=_positive, metavar="N", help="refuse larger images (default 89478485)"
    )
    _add_workers(parser)
    return run_command(_extract, parser, argv)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-size",
        type=_positive,
        default=8,
        metavar="N",
        help="images of similar size that a worker opens at once (default 8)",
    )
    parser.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="processes of this machine, or of the Ray cluster, with a core each (default: the "
        "cores of this machine; one with --device cuda)",
    )
    parser.add_argument(
        "--device", metavar="NAME", help="cpu or cuda (default: cuda with --gpus-per-worker)"
    )
    parser.add_argument(
        "--ray",
        action="store_true",
        help="workers on all nodes of a running Ray cluster (RAY_ADDRESS, or the one here), which "
        "must reach all three places by the same names",
    )
    parser.add_argument(
        "--gpus-per-worker", type=float, default=0.0, metavar="N", help="with --ray (default 0)"
    )
    parser.add_argument(
        "--allow-open",
        action="store_true",
        help="with --ray: take a cluster that asks strangers for no token",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number, 1 or more")
    return int(text)


def _extract(arguments: argparse.Namespace) -> None:
    try:
        import torchvision  # noqa: F401
        from PIL import Image  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"describing images needs {error.name}: pip install 'lxmert_dist[detect]'"
        ) from error
    from lxmert_dist.ingest import ExtractionOptions, extract_features, list_images
    from lxmert_dist.ingest.extraction import loaded
    from lxmert_dist.ingest.pool import Pool
    from lxmert_dist.opening import MAX_PIXELS

    _check_places(arguments)
    device = arguments.device or ("cuda" if arguments.gpus_per_worker else "cpu")
    if not arguments.ray:
        _require_device(device)
    source = DetectorFiles(arguments.detector, tuple(arguments.set), device)
    # On the CPU of this process it also tells what to expect of the workers'.
    detector = cast(
        "FasterRcnnDetector", loaded(DetectorFiles(arguments.detector, tuple(arguments.set)))
    )
    images = list_images(arguments.images)
    _say(f"{len(images.images):,} images; {images.ignored:,} other files are left alone")
    with Pool(_local_workers(arguments, device)) as pool:
        report = extract_features(
            arguments.out,
            images,
            source=source,
            detector=detector,
            settings=_settings_of(detector),
            options=ExtractionOptions(
                seed=arguments.seed,
                batch_size=arguments.batch_size,
                max_pixels=arguments.max_pixels or MAX_PIXELS,
                dtype=arguments.dtype,
                overwrite=arguments.overwrite,
            ),
            run=_on_ray(arguments) if arguments.ray else pool.map,
            pack=pool.map,
        )
    for line in report.lines():
        _say(line)


def _check_places(arguments: argparse.Namespace) -> None:
    """Make relative places absolute for others, and refuse what cannot be meant."""
    if arguments.gpus_per_worker < 0 or (arguments.gpus_per_worker and not arguments.ray):
        raise ConfigError("--gpus-per-worker is 0 or more, and needs --ray; or give --device cuda")
    for name in ("images", "detector", "out"):
        place = getattr(arguments, name)
        if "://" not in place:
            setattr(arguments, name, str(Path(place).absolute()))


def _local_workers(arguments: argparse.Namespace, device: str) -> int:
    from lxmert_dist.ingest import available_processes

    if arguments.workers and not arguments.ray:
        return int(arguments.workers)
    return 1 if device != "cpu" else available_processes()


def _on_ray(arguments: argparse.Namespace) -> "Mapper":
    from lxmert_dist.cluster.ray_ingest import Actors, map_on_ray
    from lxmert_dist.ingest import available_processes

    actors = Actors(arguments.workers or available_processes(), arguments.gpus_per_worker)
    return partial(map_on_ray, allow_open=arguments.allow_open, actors=actors)


def _settings_of(detector: "FasterRcnnDetector") -> dict[str, Any]:
    """Whatever changes a record, beside the weights that the detector's name tells."""
    names = "\n".join([*detector.object_classes, "", *detector.attribute_classes])
    classes = hashlib.sha256(names.encode()).hexdigest()
    return {**detector.config.model_dump(mode="json"), "names of classes": classes}


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201
