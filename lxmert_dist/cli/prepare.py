"""The command ``launch/prepare.py``: builds feature stores."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lxmert_dist.cli.command import frame, run_command
from lxmert_dist.errors import DataError

EXAMPLES = """\
examples:
  python launch/prepare.py easy-vqa --out data/easy_vqa
  python launch/prepare.py easy-vqa --out s3://bucket/easy_vqa
  python launch/prepare.py lxmert --out data/lxmert --tokenizer bert-base-uncased \\
      --tsv train2014_obj36.tsv val2014_obj36.tsv vg_gqa_obj36.tsv --answers all_ans.json \\
      --json mscoco_train.json mscoco_nominival.json vgnococo.json mscoco_minival.json
  python launch/prepare.py synthetic --images 180000 --out data/load_test
Credentials and endpoint of S3 come from the usual variables: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION.
"""

LXMERT = """\
Features as published (TSV, 10 fields, base64) and sentences as published (JSON, an element an
image) into one store. Images of mscoco_minival.json, which are the first 5,000 rows of val2014's
features, become split valid; everything else becomes split train. Files are read where they lie,
on this machine; the store can be anywhere. With --ray all nodes of a cluster read the features, so
each must see the TSV files by the same path, and reach the store with credentials of its own.
A build that was interrupted goes on with the same command.
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
    for kind in (easy, lxmert, synthetic):
        _add_place(kind)
    for kind in (lxmert, synthetic):
        _add_sizes(kind)
        _add_workers(kind)
    _add_easy_vqa(easy)
    _add_lxmert(lxmert)
    synthetic.add_argument("--images", type=int, required=True, metavar="N", help="how many")
    return run_command(_prepare, parser, argv)


def _add_easy_vqa(easy: argparse.ArgumentParser) -> None:
    easy.add_argument("--boxes", type=int, default=4, help="regions of every image (default 4)")
    easy.add_argument(
        "--tokenizer",
        default="",
        metavar="NAME",
        help="hub name or directory of a tokenizer (default: trained on the sentences)",
    )
    easy.add_argument("--limit", type=int, metavar="N", help="only the first N images of each part")


def _add_lxmert(lxmert: argparse.ArgumentParser) -> None:
    files: dict[str, Any] = {"nargs": "+", "type": Path, "required": True, "metavar": "FILE"}
    lxmert.add_argument(
        "--tsv", help="features of images; the first row of an image counts", **files
    )
    lxmert.add_argument("--json", help="sentences and labels", **files)
    lxmert.add_argument(
        "--answers", type=Path, required=True, metavar="FILE", help="answer table (all_ans.json)"
    )
    lxmert.add_argument(
        "--tokenizer",
        default="bert-base-uncased",
        metavar="NAME",
        help="hub name or directory (default bert-base-uncased)",
    )
    lxmert.add_argument(
        "--valid",
        nargs="*",
        default=["mscoco_minival"],
        metavar="NAME",
        help="names, without .json, of the files that become split valid (default mscoco_minival)",
    )
    for kind, classes in (("object", 1600), ("attribute", 400)):
        lxmert.add_argument(
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
    parser.add_argument("--boxes", type=int, default=36, help="of every image (default 36)")
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

        workers["run_shards"] = map_on_ray
        if "://" not in arguments.out:
            arguments.out = str(Path(arguments.out).absolute())
        if arguments.kind == "lxmert":
            arguments.tsv = [path.absolute() for path in arguments.tsv]
    return workers


def _prepare(arguments: argparse.Namespace) -> None:
    match arguments.kind:
        case "easy-vqa":
            prepare_easy_vqa_store(
                arguments.out,
                seed=arguments.seed,
                num_objects=arguments.boxes,
                tokenizer=arguments.tokenizer,
                limit=arguments.limit,
                overwrite=arguments.overwrite,
            )
        case "lxmert":
            _prepare_lxmert(arguments)
        case _:
            _prepare_synthetic(arguments)


def prepare_easy_vqa_store(
    uri: str,
    *,
    seed: int,
    num_objects: int = 4,
    tokenizer: str = "",
    limit: int | None = None,
    overwrite: bool = False,
) -> None:
    """Detect, tokenise and write easy-VQA to ``uri``; see ``ingest.easy_vqa`` for the splits.

    Raises:
        DataError: the data set, the detector's weights or the tokenizer cannot be read.
        StoreError: there is a store already, or the place cannot be written.
    """
    try:
        from lxmert_dist.detect import SalientDetector
    except ImportError as error:
        raise DataError(
            f"describing images needs {error.name}: pip install 'lxmert_dist[detect]'"
        ) from error
    from lxmert_dist.ingest import prepare_easy_vqa
    from lxmert_dist.store import open_store

    _say(f"preparing easy-VQA at {uri}")
    prepare_easy_vqa(
        uri,
        seed=seed,
        detector=SalientDetector(num_objects),
        tokenizer=tokenizer,
        limit=limit,
        overwrite=overwrite,
    )
    store = open_store(uri)
    for name, entry in store.manifest.splits.items():
        sources = ", ".join(f"{count} {source}" for source, count in entry.sources.items())
        _say(f"{name}: {entry.num_images} images, {sources}")


def _prepare_lxmert(arguments: argparse.Namespace) -> None:
    from lxmert_dist.ingest import (
        AnswerTable,
        FeatureFormat,
        LxmertFiles,
        LxmertJson,
        RowSizes,
        prepare_lxmert,
    )
    from lxmert_dist.interop.answers import read_answers
    from lxmert_dist.objectives.answers import normalise_answer

    workers = _workers(arguments)
    published = FeatureFormat()
    report = prepare_lxmert(
        arguments.out,
        LxmertFiles(arguments.tsv, [*map(LxmertJson, arguments.json)], arguments.valid),
        answers=AnswerTable(read_answers(arguments.answers), normalise_answer),
        tokenizer=arguments.tokenizer,
        seed=arguments.seed,
        features=FeatureFormat(
            sizes=RowSizes(arguments.boxes, arguments.feature_dim),
            object_classes=_names(arguments.object_classes, published.object_classes),
            attribute_classes=_names(arguments.attribute_classes, published.attribute_classes),
            dtype=arguments.dtype,
        ),
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
        arguments.seed, num_objects=arguments.boxes, feature_dim=arguments.feature_dim
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


def _names(path: Path | None, otherwise: Sequence[str]) -> Sequence[str]:
    """The lines of a file, if there is one."""
    if path is None:
        return otherwise
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201
