"""The command ``launch/prepare.py``: builds feature stores."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lxmert_dist.cli.command import run_command
from lxmert_dist.cli.feature_options import feature_places, given_format, stored_format
from lxmert_dist.cli.prepare_options import prepare_parser
from lxmert_dist.cli.sentence_options import sentence_files
from lxmert_dist.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lxmert_dist.ingest import AnswerTable, FeatureFormat, LxmertFiles
    from lxmert_dist.schema import Detector


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_prepare, prepare_parser(), argv)


def _workers(arguments: argparse.Namespace) -> dict[str, Any]:
    """Who does the work; relative places become absolute where others must find them."""
    from lxmert_dist.ingest import available_processes

    workers: dict[str, Any] = {"processes": arguments.processes or available_processes()}
    if arguments.ray:
        from lxmert_dist.cluster.ray_ingest import map_on_ray

        workers["run_shards"] = partial(map_on_ray, allow_open=arguments.allow_open)
        if "://" not in arguments.out:
            arguments.out = str(Path(arguments.out).absolute())
        for name in {"tsv", "features"} & vars(arguments).keys():
            places = getattr(arguments, name)
            setattr(arguments, name, [p if isinstance(p, str) else p.absolute() for p in places])
    return workers


def _prepare(arguments: argparse.Namespace) -> None:
    match arguments.kind:
        case "easy-vqa":
            prepare_easy_vqa_store(
                arguments.out,
                seed=arguments.seed,
                num_objects=arguments.boxes,
                detector=arguments.detector,
                overrides=arguments.set,
                tokenizer=arguments.tokenizer,
                limit=arguments.limit,
                overwrite=arguments.overwrite,
            )
        case "nlvr1":
            _prepare_nlvr1(arguments)
        case "lxmert":
            _prepare_lxmert(arguments)
        case "task":
            _prepare_task(arguments)
        case "own":
            _prepare_own(arguments)
        case _:
            _prepare_synthetic(arguments)


def prepare_easy_vqa_store(
    uri: str,
    *,
    seed: int,
    num_objects: int | None = None,
    detector: Path | None = None,
    overrides: Sequence[str] = (),
    tokenizer: str = "",
    limit: int | None = None,
    overwrite: bool = False,
) -> None:
    """Detect, tokenise and write easy-VQA to ``uri``; see ``ingest.easy_vqa`` for the splits.

    Args:
        uri: where the store will be.
        seed: of the split and of the order of images.
        num_objects: boxes of every image; None takes 4, or what the detector's settings say.
        detector: directory of a Faster R-CNN; None takes the detector without training.
        overrides: changes to the settings of the former, as after ``--set``.
        tokenizer: directory or hub name; empty trains one.
        limit: so many images of each part; None for all.
        overwrite: replace a finished store.

    Raises:
        ConfigError: the detector's settings are wrong.
        CheckpointError: its weights are.
        DataError: the data set, the default detector's weights or the tokenizer cannot be read.
        StoreError: there is a store already, or the place cannot be written.
    """
    from lxmert_dist.ingest import prepare_easy_vqa

    _say(f"preparing easy-VQA at {uri}")
    prepare_easy_vqa(
        uri,
        seed=seed,
        detector=_open_detector(detector, num_objects, overrides),
        tokenizer=tokenizer,
        limit=limit,
        overwrite=overwrite,
    )
    _say_splits(uri)


def _prepare_nlvr1(arguments: argparse.Namespace) -> None:
    from lxmert_dist.ingest import prepare_nlvr1

    prepare_nlvr1(
        arguments.out,
        seed=arguments.seed,
        detector=_open_detector(arguments.detector, arguments.boxes, arguments.set),
        data_dir=arguments.data,
        num_statements=arguments.statements,
        tokenizer=arguments.tokenizer,
        overwrite=arguments.overwrite,
    )
    _say_splits(arguments.out)


def _open_detector(
    directory: Path | None, num_objects: int | None, overrides: Sequence[str]
) -> "Detector":
    """The Faster R-CNN of a directory, or the detector without training."""
    try:
        from lxmert_dist.detect import SalientDetector, load_detector
    except ImportError as error:
        raise DataError(
            f"describing images needs {error.name}: pip install 'lxmert_dist[detect]'"
        ) from error
    if directory is None:
        if overrides:
            raise ConfigError(f"--set {overrides[0]} is of a detector; name it: --detector DIR")
        return SalientDetector(4 if num_objects is None else num_objects)
    boxes = [] if num_objects is None else [f"selection.boxes={num_objects}"]
    return load_detector(directory, overrides=[*boxes, *overrides])


def _say_splits(uri: str) -> None:
    from lxmert_dist.store import open_store

    for name, entry in open_store(uri).manifest.splits.items():
        sources = ", ".join(f"{count} {source}" for source, count in entry.sources.items())
        _say(f"{name}: {entry.num_images} images, {sources}")


def _prepare_lxmert(arguments: argparse.Namespace) -> None:
    from lxmert_dist.ingest import AnswerTable, LxmertFiles
    from lxmert_dist.interop.answers import read_answers
    from lxmert_dist.objectives.answers import normalise_answer

    workers = _workers(arguments)
    answers = read_answers(arguments.answers, arguments.qa_sets)
    files = LxmertFiles(arguments.tsv, sentence_files(arguments), arguments.valid, arguments.test)
    table = AnswerTable(answers, normalise_answer)
    _build(arguments, files, table, workers, given_format(arguments))


def _prepare_task(arguments: argparse.Namespace) -> None:
    from lxmert_dist.ingest import NLVR2_ANSWERS, AnswerTable, LxmertFiles
    from lxmert_dist.interop.answers import read_answers

    workers = _workers(arguments)
    answers = NLVR2_ANSWERS if arguments.answers is None else read_answers(arguments.answers)
    files = LxmertFiles(
        arguments.tsv, sentence_files(arguments), arguments.valid, arguments.test, dataset="task"
    )
    _build(arguments, files, AnswerTable(answers, str), workers, given_format(arguments))


def _prepare_own(arguments: argparse.Namespace) -> None:
    from lxmert_dist.ingest import (
        AnswerTable,
        LxmertFiles,
        OwnSentences,
        collect_answers,
        train_wordpiece,
    )
    from lxmert_dist.interop.answers import read_answers
    from lxmert_dist.objectives.answers import normalise_answer

    arguments.features = feature_places(arguments.features)
    workers = _workers(arguments)
    sentences = [OwnSentences(path) for path in arguments.sentences]
    if arguments.answers is None:
        answers = collect_answers(sentences, normalise_answer)
    else:
        answers = read_answers(arguments.answers)
    files = LxmertFiles(
        arguments.features, sentences, arguments.valid, arguments.test, dataset="own"
    )
    table = AnswerTable(answers, normalise_answer)
    (first, *_) = arguments.features
    if isinstance(first, str):
        features = stored_format(first, arguments)
    else:
        features = given_format(arguments, extractor=arguments.extractor or "own features")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.train_tokenizer:
            train_wordpiece(files.texts("train"), Path(folder), arguments.train_tokenizer)
            arguments.tokenizer = folder
        _build(arguments, files, table, workers, features)


def _build(
    arguments: argparse.Namespace,
    files: "LxmertFiles",
    answers: "AnswerTable",
    workers: dict[str, Any],
    features: "FeatureFormat",
) -> None:
    from lxmert_dist.ingest import prepare_lxmert

    report = prepare_lxmert(
        arguments.out,
        files,
        answers=answers,
        tokenizer=arguments.tokenizer,
        seed=arguments.seed,
        features=features,
        overwrite=arguments.overwrite,
        **workers,
    )
    for line in report.lines():
        _say(line)


def _prepare_synthetic(arguments: argparse.Namespace) -> None:
    from lxmert_dist.ingest import SyntheticImages, prepare_synthetic, show_amounts
    from lxmert_dist.store import open_store

    workers = _workers(arguments)
    made = SyntheticImages(
        arguments.seed,
        num_objects=arguments.boxes,
        min_objects=arguments.min_boxes,
        feature_dim=arguments.feature_dim,
    )
    prepare_synthetic(
        arguments.out,
        made,
        num_images=arguments.images,
        feature_dtype=arguments.dtype,
        overwrite=arguments.overwrite,
        **workers,
    )
    for line in show_amounts(open_store(arguments.out)):
        _say(line)


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201
