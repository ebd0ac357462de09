"""What ``launch/prepare.py`` takes: a subcommand for each kind of data, and their options."""

import argparse
from pathlib import Path
from typing import Any

from lxmert_dist.cli.command import frame
from lxmert_dist.cli.sentence_options import add_sentence_options

EXAMPLES = """\
examples:
  python launch/prepare.py easy-vqa --out data/easy_vqa
  python launch/prepare.py easy-vqa --out s3://bucket/easy_vqa
  python launch/prepare.py easy-vqa --detector runs/detector/easy_vqa --out data/detected
  python launch/prepare.py nlvr1 --data nlvr1/ --detector runs/detector/nlvr1 --out data/nlvr1
  python launch/prepare.py lxmert --out data/lxmert --tokenizer bert-base-uncased \\
      --tsv train2014_obj36.tsv val2014_obj36.tsv vg_gqa_obj36.tsv --answers all_ans.json \\
      --json mscoco_train.json mscoco_nominival.json vgnococo.json mscoco_minival.json
  python launch/prepare.py lxmert --out data/vqa --answers all_ans.json --qa-sets vqa \\
      --tsv train2014_obj36.tsv val2014_obj36.tsv \\
      --coco-captions captions_train2014.json captions_val2014.json \\
      --vqa-questions v2_OpenEnded_mscoco_train2014_questions.json \\
      --vqa-annotations v2_mscoco_train2014_annotations.json --valid captions_val2014
  python launch/prepare.py task --out data/vqa --answers trainval_label2ans.json \\
      --tsv train2014_obj36.tsv val2014_obj36.tsv \\
      --task-json train.json nominival.json minival.json --valid minival
  python launch/prepare.py task --out data/nlvr2 --tsv train_obj36.tsv valid_obj36.tsv \\
      --task-json train.json valid.json --valid valid
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

TASK = """\
Questions of VQA or GQA, or sentences of NLVR2, with the features of their images, for fine-tuning
and for predictions. Answers are those of the task's own table, letter by letter; of a question,
those that the table lacks are left out, and counted. NLVR2 needs no table; its images lie in the
store in pairs. An image of split valid or test is not trained on. Questions without answers, such
as those of a test split, are for predictions.
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


def prepare_parser() -> argparse.ArgumentParser:
    """The whole command line; ``kind`` is the subcommand."""
    parser = frame("Build a feature store from images and sentences.", EXAMPLES)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="DATA")
    easy = kinds.add_parser(
        "easy-vqa",
        help="one coloured shape an image, 5,000 images, 48,248 questions (PyPI easy-vqa)",
    )
    nlvr1 = kinds.add_parser(
        "nlvr1",
        help="NLVR v1: sentences by people, true or false of drawn images",
    )
    nlvr1.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="has hidden.zip and dev.zip"
    )
    nlvr1.add_argument(
        "--statements",
        type=int,
        default=0,
        metavar="N",
        help="make N statements and N questions about the training images, to pretrain on "
        "(default: none)",
    )
    lxmert = kinds.add_parser(
        "lxmert",
        help="the published pretraining data: 180,000 images, 9.18 million pairs",
        description=LXMERT,
    )
    task = kinds.add_parser(
        "task", help="VQA, GQA or NLVR2 with answers, for fine-tuning", description=TASK
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
    for kind in (easy, nlvr1, lxmert, task, own, synthetic):
        _add_place(kind)
    for kind in (lxmert, task, own, synthetic):
        _add_sizes(kind)
        _add_workers(kind)
    _add_easy_vqa(easy)
    _add_detector(nlvr1)
    _add_lxmert(lxmert)
    _add_task(task)
    _add_own(own)
    synthetic.add_argument("--images", type=int, required=True, metavar="N", help="how many")
    return parser


def _add_easy_vqa(easy: argparse.ArgumentParser) -> None:
    _add_detector(easy)
    easy.add_argument("--limit", type=int, metavar="N", help="only the first N images of each part")


def _add_detector(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--boxes",
        type=int,
        metavar="N",
        help="regions of every image (default 4, or as the detector's settings say)",
    )
    parser.add_argument(
        "--detector",
        type=Path,
        metavar="DIR",
        help="a Faster R-CNN of launch/train_detector.py (default: a detector without training)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting of that detector, as --set selection.boxes=8; may be repeated",
    )
    parser.add_argument(
        "--tokenizer",
        default="",
        metavar="NAME",
        help="hub name or directory of a tokenizer (default: trained on the sentences)",
    )


def _add_lxmert(lxmert: argparse.ArgumentParser) -> None:
    _add_tsv(lxmert)
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


def _add_task(task: argparse.ArgumentParser) -> None:
    _add_tsv(task)
    add_sentence_options(task)
    task.add_argument(
        "--answers",
        type=Path,
        metavar="FILE",
        help="the task's answers, a JSON list such as trainval_label2ans.json (default, for NLVR2: "
        "False and True)",
    )
    _add_reading(task, valid=[])


def _add_tsv(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tsv",
        nargs="+",
        type=Path,
        required=True,
        metavar="FILE",
        help="features of images; the first row of an image counts",
    )


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
    own.add_argument(
        "--train-tokenizer",
        type=int,
        default=0,
        metavar="SIZE",
        help="instead of --tokenizer: train one of at most SIZE word pieces on the sentences of "
        "split train, where no pretrained word pieces are needed",
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
    parser.add_argument(
        "--test", nargs="*", default=[], metavar="NAME", help="likewise, of split test"
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
