"""The command ``launch/prepare.py``: builds feature stores."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lxmert_dist.cli.command import frame, run_command
from lxmert_dist.cli.feature_options import feature_places, given_format, stored_format
from lxmert_dist.cli.sentence_options import add_sentence_options, sentence_files
from lxmert_dist.errors import DataError

if TYPE_CHECKING:
    from lxmert_dist.ingest import AnswerTable, FeatureFormat, LxmertFiles
    from lxmert_dist.schema import Detector

EXAMPLES = """\
examples:
  python launch/prepare.py easy-vqa --out data/easy_vqa
  python launch/prepare.py easy-vqa --out s3://bucket/easy_vqa
  python launch/prepare.py easy-vqa --detector runs/detector/easy_vqa --out data/detected
  python launch/prepare.py lxmert --out data/lxmert --tokenizer bert-base-uncased \\
      --tsv train2014_obj36.tsv val2014_obj36.tsv vg_gqa_obj36.tsv --answers all_ans.json \\
      --json mscoco_train.json mscoco_nominival.json vgnococo.json mscoco_minival.json
  python launch/prepare.py lxmert --out data/vqa --answers all_ans.json --qa-sets vqa \\
      --tsv train2014_obj36.tsv val2014_obj36.tsv \\
      --coco-captions captions_train2014.json captions_val2014.json \\
      --vqa-questions v2_OpenEnded_mscoco_train2014_questions.json \\
      --vqa-annotations v2_mscoco_train2014_annotations.json --valid captions_val2014
  python launch/prepare.py own --sentences mine.jsonl --features mine/ --out data/mine
  python launch/prepare.py own --sentences mine.jsonl --features data/extracted --out data/mine
  python launch/prepare.py synthetic --images 180000 --out data/load_test
Credentials and endpoint of S3 come from the usual variables: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION.
"""

LXMERT = """\
Features as published (TSV, 10 fields, base64) and sentences as published, by LXMERT or by the data
sets that it took them from, into one store. Images of mscoco_minival.json, which are the first
5,000 rows of val2014's features, become split valid; everything else becomes split train. An image
of split valid is in no other, whichever file names it. Files are read where they lie, on this
machine; the store can be anywhere. With --ray all nodes of a cluster read the features, so each
must see the TSV files by the same path, and reach the store with credentials of its own. A build
that was interrupted goes on with the same command.
"""

OWN = """\
Your own data. Sentences are JSON Lines, an object a sentence; answers make it a question:
  {"image_id": "holiday/1", "sentence": "a red bus"}
  {"image_id": "holiday/1", "sentence": "Is it raining?", "source": "mine", "answers": {"no": 1}}
Features are a TSV file as published ones are, or a directory with a file an image, here
holiday/1.npz (or .safetensors), of the arrays
  roi_features (O, F) float   boxes (O, 4) x1 y1 x2 y2 in pixels   image_size (2,) height and width
and, if you have them, object_ids, object_scores, attribute_ids, attribute_scores (O,).
Or else they are one store of launch/extract.py, at a path or URI.
"""

SYNTHETIC = """\
A store of made-up images with as many sentences of each kind, as long ones, and as many labels as
the published data have, for load tests. A build that was interrupted goes on.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = frame("Build a feature store from images and sentences.", EXAMPLES)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="DATA")
    easy = kinds.add_parser(
        "easy-vqa",
        help="one coloured shape an image, 5,000 images, 48,248 questions (PyPI easy-vqa)",
    )
    lxmert = kinds.add_parser(
        "lxmert",
        help="the published pretraining data: 180,000 images, 9.18 million pairs",
        description=LXMERT,
    )
    synthetic = kinds.add_parser(
        "synthetic", help="made up, as large as you like", description=SYNTHETIC
    )
    own = kinds.add_parser(
        "own",
        help="your sentences (JSON Lines) and features (.npz, .safetensors or TSV)",
        description=OWN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for kind in (easy, lxmert, own, synthetic):
        _add_place(kind)
    for kind in (lxmert, own, synthetic):
        _add_sizes(kind)
        _add_workers(kind)
    _add_easy_vqa(easy)
    _add_lxmert(lxmert)
    _add_own(own)
    synthetic.add_argument("--images", type=int, required=True, metavar="N", help="how many")
    return run_command(_prepare, parser, argv)


def _add_easy_vqa(easy: argparse.ArgumentParser) -> None:
    easy.add_argument(
        "--boxes",
        type=int,
        metavar="N",
        help="regions of every image (default 4, or as the detector's settings say)",
    )
    easy.add_argument(
        "--detector",
        type=Path,
        metavar="DIR",
        help="a Faster R-CNN of launch/train_detector.py (default: a detector without training)",
    )
    easy.add_argument(
        "--tokenizer",
        default="",
        metavar="NAME",
        help="hub name or directory of a tokenizer (default: trained on the sentences)",
    )
    easy.add_argument("--limit", type=int, metavar="N", help="only the first N images of each part")


def _add_lxmert(lxmert: argparse.ArgumentParser) -> None:
    lxmert.add_argument(
        "--tsv",
        nargs="+",
        type=Path,
        required=True,
        metavar="FILE",
        help="features of images; the first row of an image counts",
    )
    add_sentence_options(lxmert)
    lxmert.add_argument(
        "--answers", type=Path, required=True, metavar="FILE", help="answer table (all_ans.json)"
    )
    lxmert.add_argument(
        "--qa-sets",
        nargs="+",
        default=[],
        metavar="NAME",
        help="keep only the table's answers that one of these data sets gave: vqa, gqa, visual7w",
    )
    _add_reading(lxmert, valid=["mscoco_minival"])


def _add_own(own: argparse.ArgumentParser) -> None:
    several: dict[str, Any] = {"nargs": "+", "required": True}
    own.add_argument("--sentences", metavar="FILE", type=Path, help="JSON Lines", **several)
    own.add_argument("--features", metavar="DIR|TSV|URI", help="of the images", **several)
    own.add_argument(
        "--answers",
        type=Path,
        metavar="FILE",
        help="answer table, a JSON list (default: every answer of the sentences)",
    )
    own.add_argument(
        "--extractor",
        metavar="TEXT",
        help="what made the features, to be remembered",
    )
    own.set_defaults(boxes=None, feature_dim=None, dtype=None)  # a store tells them
    _add_reading(own, valid=[])


def _add_reading(parser: argparse.ArgumentParser, valid: list[str]) -> None:
    parser.add_argument(
        "--tokenizer",
        default="bert-base-uncased",
        metavar="NAME",
        help="hub name or directory (default bert-base-uncased)",
    )
    parser.add_argument(
        "--valid",
        nargs="*",
        default=valid,
        metavar="NAME",
        help="names, without suffix, of the files of sentences (of VQA: of questions) that become "
        f"split valid (default {' '.join(valid) or 'none'})",
    )
    for kind, classes in (("object", 1600), ("attribute", 400)):
        parser.add_argument(
            f"--{kind}-classes",
            type=Path,
            metavar="FILE",
            help=f"their names, a line each (default: {classes} numbers)",
        )


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", required=True, metavar="URI", help="path or fsspec URI of the store"
    )
    parser.add_argument("--seed", type=int, default=9595, help="of split and order (default 9595)")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished store")


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--boxes", type=int, default=36, help="of every image, or the most of one (default 36)"
    )
    parser.add_argument(
        "--min-boxes",
        type=int,
        metavar="N",
        help="images have between N and --boxes boxes, such as 10 to 100; what is missing is "
        "padding, which takes space and is masked (default: all have --boxes)",
    )
    parser.add_argument(
        "--feature-dim", type=int, default=2048, metavar="F", help="of every box (default 2048)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help="of the features in the store (default float16)",
    )


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes",
        type=_at_least_one,
        metavar="N",
        help="of this machine that share the work (default: its cores)",
    )
    parser.add_argument(
        "--ray",
        action="store_true",
        help="features by all nodes of a running Ray cluster (RAY_ADDRESS, or the one here)",
    )
    parser.add_argument(
        "--allow-open",
        action="store_true",
        help="with --ray: take a cluster that asks strangers for no token",
    )


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes, 1 or more")
    return int(text)


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
                tokenizer=arguments.tokenizer,
                limit=arguments.limit,
                overwrite=arguments.overwrite,
            )
        case "lxmert":
            _prepare_lxmert(arguments)
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
        tokenizer: directory or hub name; empty trains one.
        limit: so many images of each part; None for all.
        overwrite: replace a finished store.

    Raises:
        ConfigError: the detector's settings are wrong.
        CheckpointError: its weights are.
        DataError: the data set, the default detector's weights or the tokenizer cannot be read.
        StoreError: there is a store already, or the place cannot be written.
    """
    try:
        from lxmert_dist.detect import SalientDetector, load_detector
    except ImportError as error:
        raise DataError(
            f"describing images needs {error.name}: pip install 'lxmert_dist[detect]'"
        ) from error
    from lxmert_dist.ingest import prepare_easy_vqa
    from lxmert_dist.store import open_store

    if detector is None:
        describes: Detector = SalientDetector(4 if num_objects is None else num_objects)
    else:
        boxes = [] if num_objects is None else [f"selection.boxes={num_objects}"]
        describes = load_detector(detector, overrides=boxes)
    _say(f"preparing easy-VQA at {uri}")
    prepare_easy_vqa(
        uri,
        seed=seed,
        detector=describes,
        tokenizer=tokenizer,
        limit=limit,
        overwrite=overwrite,
    )
    store = open_store(uri)
    for name, entry in store.manifest.splits.items():
        sources = ", ".join(f"{count} {source}" for source, count in entry.sources.items())
        _say(f"{name}: {entry.num_images} images, {sources}")


def _prepare_lxmert(arguments: argparse.Namespace) -> None:
    from lxmert_dist.ingest import AnswerTable, LxmertFiles
    from lxmert_dist.interop.answers import read_answers
    from lxmert_dist.objectives.answers import normalise_answer

    workers = _workers(arguments)
    answers = read_answers(arguments.answers, arguments.qa_sets)
    files = LxmertFiles(arguments.tsv, sentence_files(arguments), arguments.valid)
    table = AnswerTable(answers, normalise_answer)
    _build(arguments, files, table, workers, given_format(arguments))


def _prepare_own(arguments: argparse.Namespace) -> None:
    from lxmert_dist.ingest import AnswerTable, LxmertFiles, OwnSentences, collect_answers
    from lxmert_dist.interop.answers import read_answers
    from lxmert_dist.objectives.answers import normalise_answer

    arguments.features = feature_places(arguments.features)
    workers = _workers(arguments)
    sentences = [OwnSentences(path) for path in arguments.sentences]
    if arguments.answers is None:
        answers = collect_answers(sentences, normalise_answer)
    else:
        answers = read_answers(arguments.answers)
    files = LxmertFiles(arguments.features, sentences, arguments.valid, dataset="own")
    table = AnswerTable(answers, normalise_answer)
    (first, *_) = arguments.features
    if isinstance(first, str):
        features = stored_format(first, arguments)
    else:
        features = given_format(arguments, extractor=arguments.extractor or "own features")
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
