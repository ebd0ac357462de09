"""The command ``launch/audit.py``: looks for images of evaluation splits in a store."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lxmert_dist.cli.command import frame, run_command
from lxmert_dist.errors import ConfigError, StoreError
from lxmert_dist.progress import drawn_over

if TYPE_CHECKING:
    from lxmert_dist.ingest.audit import Finding
    from lxmert_dist.ingest.image_ids import ImageKey
    from lxmert_dist.store import Store

DESCRIPTION = """\
Which images of a store's split train are in a task's evaluation split?

By name: names are compared in one form (COCO_val2014_000000000042.jpg, val2014/000000000042.jpg and
VQA's 42 are one image). With --images and --task-images also by look: copies of another size or
compression have hashes that differ in few of 64 bits. Prints a table with the pairs of the images
that were found, by source. Ends with 0 if there are none, with 1 otherwise."""

EXAMPLES = """\
examples:
  python launch/audit.py data/lxmert --task v2_OpenEnded_mscoco_val2014_questions.json
  python launch/audit.py data/lxmert --task testdev_balanced_questions.json minival.json \\
      --vg-image-data image_data.json --json audit.json
  python launch/audit.py data/lxmert --images coco/ VG_100K/ --task-images nlvr2/dev/
A task's file: questions or annotations of VQA, questions of GQA, COCO's images or captions, NLVR2
(JSON Lines), LXMERT's JSON files for pretraining and tasks, or a list of names, a line each.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = frame(DESCRIPTION, EXAMPLES)
    parser.add_argument("uri", metavar="STORE", help="path or fsspec URI of the store")
    several: dict[str, Any] = {"nargs": "+", "type": Path, "default": []}
    parser.add_argument("--task", metavar="FILE", help="names a task's images", **several)
    parser.add_argument(
        "--split", nargs="+", default=["train"], metavar="NAME", help="of the store (default train)"
    )
    parser.add_argument(
        "--vg-image-data",
        type=Path,
        metavar="FILE",
        help="Visual Genome's image_data.json, which tells which of its images are COCO's",
    )
    parser.add_argument(
        "--images", metavar="DIR", help="image files of the store, called as there", **several
    )
    parser.add_argument("--task-images", metavar="DIR", help="image files of a task", **several)
    parser.add_argument(
        "--distance",
        type=int,
        default=4,
        metavar="BITS",
        help="by which two hashes of one picture may differ (default 4)",
    )
    parser.add_argument(
        "--threads", type=int, default=4, metavar="N", help="images decoded at once (default 4)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="OUT", help="write every image found to a file"
    )
    return run_command(_audit, parser, argv)


def _audit(arguments: argparse.Namespace) -> None:
    from lxmert_dist.ingest import audit, read_image_data
    from lxmert_dist.store import open_store

    _check(arguments)
    store = open_store(arguments.uri)
    for name in arguments.split:
        if name not in store.manifest.splits:
            known = ", ".join(store.manifest.splits)
            raise ConfigError(f"--split {name} is not in the store; choose among {known}")
    progress = drawn_over()
    coco_ids = read_image_data(arguments.vg_image_data).coco_ids if arguments.vg_image_data else {}
    tasks = audit.read_tasks(arguments.task, arguments.task_images, coco_ids, progress)
    images: dict[ImageKey, Path] = {}
    for folder in arguments.images:
        images |= audit.list_images(folder, coco_ids)
    auditor = audit.Auditor(
        coco_ids,
        images=images,
        distance=arguments.distance,
        threads=arguments.threads,
        progress=progress,
    )
    findings = [
        finding
        for name in arguments.split
        for finding in auditor.compare(name, store.split(name), tasks)
    ]
    for line in audit.show_findings(findings):
        print(line)  # noqa: T201
    if arguments.json:
        _write(arguments.json, store, findings)
    if not coco_ids:
        print(  # noqa: T201
            "note: images of Visual Genome were not compared with COCO's: --vg-image-data tells "
            "which are the same"
        )
    shared = len({(f.split, hit.row) for f in findings for hit in f.hits})
    if shared:
        raise StoreError(
            f"{shared:,} images of {' '.join(arguments.split)} are in these tasks; prepare the "
            "store again without them (images of files that --valid names are held out)"
        )


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.task and not arguments.task_images:
        raise ConfigError("name a task: --task FILE, or --task-images DIR with --images DIR")
    if bool(arguments.images) != bool(arguments.task_images):
        raise ConfigError("looks are compared between --images and --task-images; name both")
    if not 0 <= arguments.distance <= 64:
        raise ConfigError("--distance must be from 0 to 64 bits")
    if arguments.threads < 1:
        raise ConfigError("--threads counts from 1")


def _write(path: Path, store: "Store", findings: "list[Finding]") -> None:
    content = {"store": store.digest, "findings": [finding.as_json() for finding in findings]}
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
