"""The command ``launch/train_detector.py``: trains a detector on labelled images."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lxmert_dist.cli.command import add_settings, frame, run_command
from lxmert_dist.config import dump_toml, flat_settings, load_config
from lxmert_dist.config.detector_training import TrainableDetectorConfig
from lxmert_dist.errors import ConfigError, DataError, StoppedError

if TYPE_CHECKING:
    from lxmert_dist.detect.training import DetectorTrainer
    from lxmert_dist.schema import LabelledImage
    from lxmert_dist.tracking import Status, Tracker
    from lxmert_dist.train.stop import Stop

EXAMPLES = """\
examples:
  python launch/train_detector.py --config configs/detector/easy_vqa.toml
  python launch/train_detector.py --config configs/detector/nlvr1.toml --data nlvr1
  python launch/prepare.py easy-vqa --detector runs/detector/easy_vqa --out data/detected
The same command again goes on from the last validation. SIGTERM and Ctrl-C save what there is at
the end of the step; the codes are 75 and 130.
"""
STATE = Path("training") / "state.safetensors"
"""In the detector's directory: what a training that goes on needs."""
_GRACE_SECONDS = 30.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = frame("Train a Faster R-CNN with attributes from random weights.", EXAMPLES)
    add_settings(parser, "configs/detector/easy_vqa.toml")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="where the data set is; of easy-VQA the package's (default)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="the detector's directory (default: runs/detector/NAME, as the configuration file)",
    )
    parser.add_argument("--print-config", action="store_true", help="print the settings, and stop")
    return run_command(_train, parser, argv)


def _train(arguments: argparse.Namespace) -> None:
    config = load_config(TrainableDetectorConfig, arguments.config, arguments.set)
    if arguments.print_config:
        print(dump_toml(config), end="")  # noqa: T201
        return
    try:
        from lxmert_dist.detect.training import check_images
    except ImportError as error:
        raise DataError(
            f"training a detector needs {error.name}: pip install 'lxmert_dist[detect]'"
        ) from error
    from lxmert_dist.tracking import ui_command
    from lxmert_dist.train.claim import claim

    directory = arguments.out or Path("runs") / "detector" / arguments.config.stem
    images, held_out = (
        read_images(config, arguments.data, part)
        for part in (config.training.train_part, config.training.validation_part)
    )
    check_images(images)
    check_images(held_out)
    with claim(directory, _GRACE_SECONDS):
        _train_in(directory, config, images, held_out)
    print(f"detector: {directory}")  # noqa: T201
    if config.tracking.mlflow:
        print(f"curves:   {ui_command(config.tracking, directory)}")  # noqa: T201


def _train_in(
    directory: Path,
    config: TrainableDetectorConfig,
    images: "list[LabelledImage]",
    held_out: "list[LabelledImage]",
) -> None:
    from lxmert_dist.detect.training import DetectorTrainer
    from lxmert_dist.train.stop import Stop

    trainer = DetectorTrainer(config, images)
    going_on = (directory / STATE).is_file()
    if going_on:
        trainer.resume(directory / STATE)
    print(  # noqa: T201
        f"{len(images):,} images, {len(held_out):,} to validate on; step {trainer.step:,} of "
        f"{config.training.steps:,}; {directory}"
    )
    tracker = _tracker(config, trainer, directory, going_on)
    status: Status = "FAILED"
    with Stop(_GRACE_SECONDS) as stop:
        try:
            _loop(config, trainer, held_out, directory, tracker, stop)
            status = "FINISHED"
        except (KeyboardInterrupt, StoppedError):
            status = "KILLED"
            raise
        finally:
            tracker.close(status)


def _tracker(
    config: TrainableDetectorConfig, trainer: "DetectorTrainer", directory: Path, going_on: bool
) -> "Tracker":
    from lxmert_dist.tracking import build_tracker, environment_report

    tracker = build_tracker(
        config.tracking,
        directory=directory,
        run_name=directory.name,
        run_id=trainer.tracker_run_id,
        resume_step=trainer.step if going_on else None,
        tags={"source": config.training.source},
    )
    tracker.log_params(flat_settings(config))
    tracker.log_text(dump_toml(config), "config.toml")
    tracker.log_text(environment_report(), "environment.json")
    return tracker


def read_images(
    config: TrainableDetectorConfig, data: Path | None, part: str
) -> "list[LabelledImage]":
    """The images of one part of the data that ``training.source`` names.

    Raises:
        ConfigError: it needs ``--data``.
        DataError: the data are missing or damaged.
    """
    from lxmert_dist.ingest.easy_vqa_shapes import read_easy_vqa_shapes
    from lxmert_dist.ingest.nlvr1 import read_nlvr1

    names = config.training.object_names, config.training.attribute_names
    if config.training.source == "easy_vqa":
        return read_easy_vqa_shapes(data, part, *names)
    if data is None:
        raise ConfigError(f"training.source=nlvr1 needs --data, the folder with {part}.zip")
    return read_nlvr1(data, part, *names)


def _loop(
    config: TrainableDetectorConfig,
    trainer: "DetectorTrainer",
    held_out: "list[LabelledImage]",
    directory: Path,
    tracker: "Tracker",
    stop: "Stop",
) -> None:
    """Take the steps that are left; validate, save, and listen to signals."""
    training = config.training
    some = held_out[:: max(len(held_out) // (training.validation_images or len(held_out)), 1)]
    began, first = time.monotonic(), trainer.step
    while trainer.step < training.steps:
        figures = trainer.take_step()
        last = trainer.step == training.steps
        if trainer.step % training.log_every == 0 or last:
            a_second = (trainer.step - first) / (time.monotonic() - began)
            figures["images_per_second"] = a_second * training.batch_images
            tracker.log_metrics({f"train/{n}": v for n, v in figures.items()}, trainer.step)
            print(  # noqa: T201
                f"step {trainer.step:,}/{training.steps:,}  loss {figures['loss']:.4f}  "
                f"{figures['images_per_second']:.1f} images/s  "
                f"{(training.steps - trainer.step) / a_second / 60:.1f} min left",
                flush=True,
            )
        try:
            stop.check(stop.flags())
        except StoppedError:
            _save(trainer, directory, tracker)
            raise
        if trainer.step % training.validate_every == 0 and not last:
            _save(trainer, directory, tracker)
            _validate(config, trainer, some, tracker)
    _save(trainer, directory, tracker)
    _validate(config, trainer, held_out, tracker)


def _save(trainer: "DetectorTrainer", directory: Path, tracker: "Tracker") -> None:
    trainer.tracker_run_id = tracker.run_id  # known once the server has answered
    trainer.save_detector(directory)
    trainer.save_state(directory / STATE)


def _validate(
    config: TrainableDetectorConfig,
    trainer: "DetectorTrainer",
    images: "list[LabelledImage]",
    tracker: "Tracker",
) -> None:
    from lxmert_dist.detect.training import validate

    figures = validate(trainer.network(), images, config.training.object_names, progress=True)
    tracker.log_metrics({f"valid/{name}": value for name, value in figures.items()}, trainer.step)
    said = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    print(  # noqa: T201
        f"step {trainer.step:,}  of {len(images):,} images: {said}", flush=True
    )
