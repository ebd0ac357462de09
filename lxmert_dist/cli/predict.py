"""The command ``launch/predict.py``: answers to questions about images, and what was looked at."""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lxmert_dist.cli.command import frame, run_command
from lxmert_dist.errors import ConfigError

if TYPE_CHECKING:
    from lxmert_dist.predict import Prediction

DESCRIPTION = """\
Answer questions about images with weights that have an answer head.

PATH is a run, a checkpoint or an export of launch/convert.py (also at s3://…), or what the released
code or Hugging Face wrote. Asked is one of
  one question         --image FILE --question TEXT; prints the likeliest answers
  a file of questions  --questions FILE: JSON Lines, {"uid": "1", "image": "a.jpg", "question": "…"}
  a store's split      --store URI --split NAME, from its features, without a detector
The last two write --out, which launch/score.py and launch/submit.py take: {"uid": …, "answer": …,
"score": …, "top": [[answer, score], …]}. A score is the sigmoid of a fine-tuned head, each answer
by itself; of a head where one answer is right (pretraining, NLVR2, loss="cross_entropy") it is the
softmax over all answers."""

EXAMPLES = """\
examples:
  python launch/predict.py --from exports/easy_vqa --image photo.png \\
      --question "what shape is in the image?" --attention pictures
  python launch/predict.py --from runs/easy_vqa_finetune --store data/easy_vqa --split test \\
      --sources easy_vqa --out predictions.jsonl
  python launch/predict.py --from runs/vqa --detector frcnn --questions test.jsonl \\
      --images test2015 --out predictions.jsonl
  python launch/predict.py --from downloads/lxmert-vqa-uncased --answers trainval_label2ans.json \\
      --detector frcnn --image photo.jpg --question "who is there?"
in a notebook: from lxmert_dist.cli.predict import main; main(["--from", "exports/easy_vqa", …])
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_predict, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = frame(DESCRIPTION, EXAMPLES)
    parser.add_argument("--from", dest="source", required=True, metavar="PATH", help="the weights")
    asked = parser.add_argument_group("what is asked")
    asked.add_argument("--image", type=Path, metavar="FILE", help="an image, with --question")
    asked.add_argument("--question", metavar="TEXT")
    asked.add_argument("--questions", type=Path, metavar="FILE", help="JSON Lines, as above")
    asked.add_argument(
        "--images", type=Path, metavar="DIR", help="of --questions (default: the file's own)"
    )
    asked.add_argument("--store", metavar="URI", help="a feature store, with --split")
    asked.add_argument("--split", metavar="NAME")
    asked.add_argument(
        "--sources",
        nargs="+",
        default=(),
        metavar="NAME",
        help="which sentences of the split are questions (default: all)",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--detector",
        metavar="DIR",
        help="a Faster R-CNN, or 'salient' for the one without training (default: 'salient' where "
        "the weights were trained with it)",
    )
    how.add_argument("--answers", type=Path, metavar="FILE", help="names of the answer head's rows")
    how.add_argument("--tokenizer", type=Path, metavar="DIR", help="default: that of the weights")
    how.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="longest question, with its two special tokens (default: as trained, or 20)",
    )
    how.add_argument("--top", type=int, default=5, metavar="N", help="answers kept (default 5)")
    how.add_argument("--batch", type=int, default=32, metavar="N", help="at once (default 32)")
    how.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, …")
    made = parser.add_argument_group("what is made")
    made.add_argument("--out", type=Path, metavar="FILE", help="predictions as JSON Lines")
    made.add_argument(
        "--attention",
        type=Path,
        metavar="DIR",
        help="pictures of what every layer and head looked at, for --image",
    )
    return parser


def _predict(arguments: argparse.Namespace) -> None:
    mode = _mode(arguments)
    if arguments.out is not None:
        _check_writable(arguments.out)
    if arguments.attention is not None:
        _check_empty(arguments.attention)
    mode(arguments)


def _mode(arguments: argparse.Namespace) -> Callable[[argparse.Namespace], None]:
    """What is asked.

    Raises:
        ConfigError: nothing, several things, or half of one.
    """
    halves = {"image": "question", "store": "split"}
    for one, other in halves.items():
        if (getattr(arguments, one) is None) != (getattr(arguments, other) is None):
            raise ConfigError(f"--{one} and --{other} go together")
    modes = {"image": _one, "questions": _file, "store": _split}
    chosen = [name for name in modes if getattr(arguments, name) is not None]
    if len(chosen) != 1:
        what = " and ".join(f"--{name}" for name in chosen) or "nothing"
        raise ConfigError(
            f"asked is {what}; say one of --image with --question, --questions, or --store with "
            "--split"
        )
    needs = {"images": "questions", "attention": "image", "sources": "store"}
    for option, mode in needs.items():
        if getattr(arguments, option) and mode != chosen[0]:
            raise ConfigError(f"--{option} goes with --{mode}")
    if chosen[0] == "store" and arguments.detector is not None:
        raise ConfigError(
            "--detector describes images; a --store has features already; leave it out"
        )
    if chosen[0] != "image" and arguments.out is None:
        raise ConfigError(f"--{chosen[0]} needs --out FILE for the predictions")
    return modes[chosen[0]]


def _one(arguments: argparse.Namespace) -> None:
    from lxmert_dist.predict import Predictor, write_predictions

    predictor = Predictor.load(arguments.source, detector=arguments.detector, **_options(arguments))
    if arguments.attention is None:
        prediction = predictor(arguments.image, arguments.question, top=arguments.top)
    else:
        from lxmert_dist.predict.pictures import save_attention

        attention = predictor.attention(arguments.image, arguments.question, top=arguments.top)
        prediction = attention.prediction
    for answer, score in prediction.top:
        print(f"{score:.4f}  {answer}")  # noqa: T201
    if arguments.attention is not None:
        files = save_attention(attention, arguments.attention, progress=True)
        print(f"wrote {len(files)} pictures to {arguments.attention}")  # noqa: T201
    if arguments.out is not None:
        write_predictions(arguments.out, [prediction])


def _file(arguments: argparse.Namespace) -> None:
    from lxmert_dist.predict import Predictor
    from lxmert_dist.predict.question_file import read_questions

    questions = read_questions(arguments.questions, arguments.images)
    predictor = Predictor.load(arguments.source, detector=arguments.detector, **_options(arguments))
    start = time.perf_counter()
    found = predictor.batch(questions, top=arguments.top, size=arguments.batch, progress=True)
    _write(arguments.out, found, time.perf_counter() - start)


def _split(arguments: argparse.Namespace) -> None:
    from lxmert_dist.predict import load_answerer, predict_split
    from lxmert_dist.store import open_store

    store = open_store(arguments.store)
    answerer = load_answerer(arguments.source, **_options(arguments))
    start = time.perf_counter()
    found = predict_split(
        answerer,
        store,
        arguments.split,
        sources=tuple(arguments.sources),
        top=arguments.top,
        size=arguments.batch,
        progress=True,
    )
    _write(arguments.out, found, time.perf_counter() - start)


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "device": arguments.device,
        "max_tokens": arguments.max_tokens,
        "answers": arguments.answers,
        "tokenizer": arguments.tokenizer,
    }


def _write(out: Path, found: "list[Prediction]", seconds: float) -> None:
    from lxmert_dist.predict import write_predictions

    write_predictions(out, found)
    rate = len(found) / max(seconds, 1e-9)
    print(f"wrote {len(found):,} predictions to {out}; {rate:,.0f} questions/s")  # noqa: T201


def _check_writable(out: Path) -> None:
    """See at the start what would go wrong at the end.

    Raises:
        ConfigError: a directory is there, or its own cannot be written to.
    """
    if out.is_dir():
        raise ConfigError(f"--out {out} is a directory; name a file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}; choose another place") from error
    if not os.access(out.parent, os.W_OK):
        raise ConfigError(f"--out {out}: its directory may not be written to; choose another place")


def _check_empty(pictures: Path) -> None:
    """Pictures of two questions in one place would be taken for one.

    Raises:
        ConfigError: something is there.
    """
    if pictures.exists() and not (pictures.is_dir() and not any(pictures.iterdir())):
        raise ConfigError(f"--attention {pictures} exists already; choose another place")
