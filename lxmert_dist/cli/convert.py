"""The command ``launch/convert.py``: weights in and out."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lxmert_dist.cli.command import frame, run_command
from lxmert_dist.errors import ConfigError

FORMATS = ("huggingface", "lxmert", "lxmert_dist")

DESCRIPTION = """\
Convert weights between the released LXMERT, Hugging Face and lxmert_dist.

PATH is recognised by what it holds: a snapshot of the released code (*_LXRT.pth, or a fine-tuned
VQA, GQA or NLVR2), a Hugging Face directory of LXMERT or BERT (safetensors or bin), or a run,
checkpoint or export of lxmert_dist. Files are never trusted: a pickle that holds code is refused.
What was written is opened again, and both models must say the same of a fixed input."""

EXAMPLES = """\
examples:
  python launch/convert.py --from runs/easy_vqa --to huggingface --out exports/easy_vqa
  python launch/convert.py --from model_LXRT.pth --answers all_ans.json \\
      --tokenizer downloads/bert-base-uncased --to lxmert_dist --out weights/lxmert
  python launch/convert.py --from weights/lxmert --target-answers trainval_label2ans.json \\
      --to huggingface --out exports/vqa_start
  python launch/convert.py --from downloads/bert-base-uncased --to lxmert_dist \\
      --out weights/bert
  python launch/pretrain.py --set init=weights/bert
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_convert, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = frame(DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--from", dest="source", required=True, metavar="PATH", help="file, directory or run"
    )
    parser.add_argument("--to", required=True, choices=FORMATS, help="the format to write")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to write, on a disk")
    parser.add_argument(
        "--answers",
        type=Path,
        metavar="FILE",
        help="names the rows of the answer head (all_ans.json, trainval_label2ans.json)",
    )
    parser.add_argument(
        "--target-answers",
        type=Path,
        metavar="FILE",
        help="gives the answer head these answers, matched by what they say; new ones are zero",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="with vocab.txt or tokenizer.json (default: the source's, where it has one)",
    )
    parser.add_argument(
        "--num-heads",
        type=int,
        metavar="N",
        help="attention heads, where nothing says it (default: 64 features a head)",
    )
    parser.add_argument(
        "--bert-layers",
        choices=("lower", "upper"),
        default="lower",
        help="which of BERT's layers are taken: as the released code (default) or the paper says",
    )
    parser.add_argument(
        "--language-layers",
        type=int,
        default=9,
        metavar="N",
        help="how many of BERT's layers are taken (default 9)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export at DIR")
    return parser


def _convert(arguments: argparse.Namespace) -> None:
    from lxmert_dist.interop import Request, convert
    from lxmert_dist.interop.source import Guess
    from lxmert_dist.predict.weights import find_source
    from lxmert_dist.store.uri import local_path

    out = local_path(arguments.out)
    if out is None:
        raise ConfigError(
            f"--out {arguments.out} is not a local directory; choose one, and copy it afterwards"
        )
    counts = (arguments.language_layers, arguments.num_heads)
    if any(count is not None and count < 1 for count in counts):
        raise ConfigError("--language-layers and --num-heads count from 1")
    guess = Guess(arguments.num_heads, arguments.bert_layers, arguments.language_layers)
    source = find_source(arguments.source, guess)
    request = Request(
        to=arguments.to,
        out=out,
        answers=arguments.answers,
        target_answers=arguments.target_answers,
        tokenizer=arguments.tokenizer,
        overwrite=arguments.overwrite,
    )
    conversion = convert(source, request)
    for line in conversion.lines():
        print(line)  # noqa: T201
    print(f"written     {out}")  # noqa: T201
