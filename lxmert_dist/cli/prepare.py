"""The command ``launch/prepare.py``: builds feature stores."""

import argparse
import sys
from collections.abc import Sequence

from lxmert_dist.cli.command import frame, run_command
from lxmert_dist.errors import DataError

EXAMPLES = """\
examples:
  python launch/prepare.py easy-vqa --out data/easy_vqa
  python launch/prepare.py easy-vqa --out s3://bucket/easy_vqa
Credentials and endpoint of S3 come from the usual variables: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = frame("Build a feature store from images and sentences.", EXAMPLES)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="DATA")
    easy = kinds.add_parser(
        "easy-vqa",
        help="one coloured shape an image, 5,000 images, 48,248 questions (PyPI easy-vqa)",
    )
    easy.add_argument("--out", required=True, metavar="URI", help="path or fsspec URI of the store")
    easy.add_argument("--seed", type=int, default=9595, help="of split and order (default 9595)")
    easy.add_argument("--boxes", type=int, default=4, help="regions of every image (default 4)")
    easy.add_argument(
        "--tokenizer",
        default="",
        metavar="NAME",
        help="hub name or directory of a tokenizer (default: trained on the sentences)",
    )
    easy.add_argument("--limit", type=int, metavar="N", help="only the first N images of each part")
    easy.add_argument("--overwrite", action="store_true", help="replace a finished store")
    return run_command(_prepare, parser, argv)


def _prepare(arguments: argparse.Namespace) -> None:
    prepare_easy_vqa_store(
        arguments.out,
        seed=arguments.seed,
        num_objects=arguments.boxes,
        tokenizer=arguments.tokenizer,
        limit=arguments.limit,
        overwrite=arguments.overwrite,
    )


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

    print(f"preparing easy-VQA at {uri}", file=sys.stderr)  # noqa: T201
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
        print(f"{name}: {entry.num_images} images, {sources}", file=sys.stderr)  # noqa: T201
