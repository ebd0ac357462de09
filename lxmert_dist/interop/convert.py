"""A conversion from end to end: read, name the answers, write, read back, compare, publish."""

import errno
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from lxmert_dist.errors import CheckpointError, ConfigError
from lxmert_dist.interop import card, hugging_face, ours, target, tokenizers
from lxmert_dist.interop.answers import name_rows, read_answers, reorder, take_rows
from lxmert_dist.interop.card import REPORT, Conversion
from lxmert_dist.interop.probe import (
    LIMIT,
    UNEXPLAINED,
    Outputs,
    Probe,
    differences,
    largest,
    make_probe,
)
from lxmert_dist.interop.source import Source
from lxmert_dist.interop.target import Format
from lxmert_dist.interop.tokenizers import FoundTokenizer
from lxmert_dist.tasks.weights import Description, TaskWeights

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Request:
    """Where weights go, and what is said of them."""

    to: Format
    out: Path
    answers: Path | None = None
    """Names the rows of the answer head."""
    target_answers: Path | None = None
    """The answers that the head shall have instead."""
    tokenizer: Path | None = None
    """In place of the one that was found."""
    overwrite: bool = False


def convert(source: Source, request: Request) -> Conversion:
    """Write ``source`` as ``request.to``; nothing is at ``request.out`` unless all went well.

    Raises:
        CheckpointError: the weights cannot be written, or what was written says something else.
        ConfigError: there is no such conversion, or something is in the way.
        DataError: a table of answers or a tokenizer cannot be read, or does not fit.
    """
    target.check_possible(source.weights, request.to)
    weights = source.weights
    if request.answers:
        weights = name_rows(weights, read_answers(request.answers), str(request.answers))
    rows, missing = None, None
    if request.target_answers:
        reordered = reorder(weights, read_answers(request.target_answers))
        weights, rows, missing = reordered.weights, reordered.rows, reordered.missing
    tokenizer = _tokenizer(source, request)
    probe = _probe(weights.description)
    with _whole_or_absent(request) as folder:
        with _writing(request.out):
            target.write(weights, request.to, folder, tokenizer)
        expected = _expected(source, probe, rows, len(weights.description.answers))
        eps = weights.description.model.layer_norm_eps

        def difference(eps: float) -> dict[str, float]:
            return differences(expected, target.outputs(weights, request.to, folder, probe, eps))

        other_eps = request.to != "lxmert_dist" and eps != hugging_face.EPS
        conversion = Conversion(
            label=source.label,
            to=request.to,
            description=weights.description,
            num_tensors=source.num_tensors,
            num_parameters=_count(source.weights),
            num_written=_count(weights),
            dropped=source.dropped,
            heads_assumed=source.heads_assumed,
            tokenizer=tokenizer.origin if tokenizer else "",
            differences=difference(eps),
            as_opened=difference(hugging_face.EPS) if other_eps else None,
            missing_answers=missing,
        )
        _check(conversion)
        with _writing(request.out):
            card.write(conversion, folder)
    return conversion


def _count(weights: TaskWeights) -> int:
    return sum(tensor.numel() for tensor in weights.tensors.values())


def _tokenizer(source: Source, request: Request) -> FoundTokenizer | None:
    found = tokenizers.named(request.tokenizer) if request.tokenizer else source.tokenizer
    if found is not None:
        tokenizers.check_fits(found, source.weights.description)
    return found


def _probe(description: Description) -> Probe:
    features = description.sizes.get("feature_dim", ours.BERT_FEATURES)
    return make_probe(description.sizes["vocab_size"], features, description.model.max_positions)


def _expected(
    source: Source, probe: Probe, rows: Mapping[int, int] | None, num_answers: int
) -> Outputs:
    """What the source says of the probe: by transformers' code, unless it is ours.

    Its answers stand in the new order of ``rows``, if there is one.
    """
    said = (
        ours.outputs(source.weights, probe)
        if source.released is None
        else hugging_face.outputs_of(source.released, source.weights.description, probe)
    )
    if rows is None:
        return said
    return {**said, "image_qa": take_rows(said["image_qa"].T, rows, num_answers).T}


def _check(conversion: Conversion) -> None:
    name, worst = largest(conversion.differences)
    if not worst <= LIMIT:  # also where it is not a number
        raise CheckpointError(
            f"the converted weights differ from the source by {worst:.1e} of the largest value "
            f"({name}), more than {LIMIT:.0e}, so nothing was written; {UNEXPLAINED}"
        )


@contextmanager
def _whole_or_absent(request: Request) -> Iterator[Path]:
    """A folder to write to, which becomes ``request.out`` at the end, or else disappears.

    Raises:
        ConfigError: something is there, and may not be replaced.
        CheckpointError: it cannot be made, or put there.
    """
    out = request.out
    _check_free(out, request.overwrite)
    folder = out.with_name(f".{out.name}.{uuid.uuid4().hex}.tmp")
    try:
        with _writing(out):
            folder.mkdir(parents=True)
        yield folder
        with _writing(out):
            if out.exists():
                shutil.rmtree(out)
            folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Explain what goes wrong when files are written; torch and safetensors have own errors."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        text = str(error)
        full = getattr(error, "errno", None) in _FULL or any(f"os error {n}" in text for n in _FULL)
        why = "no space is left" if full else text.splitlines()[0]
        raise CheckpointError(
            f"cannot write {out} ({why}), and nothing was left there; choose another place, or "
            "free some space"
        ) from error


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ConfigError(f"--out {out} exists already; choose another place, or add --overwrite")
    if not (out / REPORT).is_file():
        raise ConfigError(
            f"--out {out} was not written by this command, so --overwrite does not remove it; "
            "choose another place"
        )
