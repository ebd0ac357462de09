"""From a path to weights: what is there is told by its contents, not by its name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lxmert_dist.errors import CheckpointError
from lxmert_dist.interop import ours, tokenizers
from lxmert_dist.interop.answers import name_rows, read_answers
from lxmert_dist.interop.layouts import BertLayers, is_ours, recognise, take_bert_layers
from lxmert_dist.interop.names import TIED, to_ours
from lxmert_dist.interop.sizes import infer_model, infer_sizes
from lxmert_dist.interop.tokenizers import FoundTokenizer
from lxmert_dist.store import uri as uris
from lxmert_dist.tasks.weights import TOKENIZER, Description, TaskWeights, kind_of
from lxmert_dist.weight_files import SUFFIXES, read_file, read_shards

ANSWERS = "answers.json"
"""The names of the rows of an answer head, beside exported weights."""

_SHARDS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WHOLE = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Guess:
    """What a user says of weights that do not say it themselves."""

    num_heads: int | None = None
    bert_layers: BertLayers = "lower"
    language_layers: int = 9
    """How many of BERT's are taken."""


@dataclass(frozen=True)
class Source:
    """Weights as they were found, and by our names."""

    label: str
    weights: TaskWeights
    released: Mapping[str, Tensor] | None
    """By the released names, as found; None where they were ours already."""
    num_tensors: int
    tokenizer: FoundTokenizer | None
    dropped: tuple[str, ...] = ()
    heads_assumed: bool = False
    """Nothing said how many attention heads there are."""


def of_run(weights: TaskWeights) -> Source:
    """Weights of a checkpoint or an export of ours; its tokenizer lies beside or in the store.

    Raises:
        CheckpointError: a tensor is missing, or of another shape.
    """
    ours.check(weights)
    tokenizer = None
    if weights.tokenizer:
        tokenizer = FoundTokenizer(uris.join(weights.uri, TOKENIZER), weights.tokenizer)
    elif weights.store:
        tokenizer = tokenizers.of_store(weights.store, weights.description.tokenizer_digest)
    return Source("weights of lxmert_dist", weights, None, len(weights.tensors), tokenizer)


def of_path(path: Path, guess: Guess) -> Source:
    """Weights of other programs: a file, or a directory of Hugging Face.

    Raises:
        CheckpointError: nothing is there, it is damaged, unsafe, incomplete or of another model.
    """
    if not path.exists():
        raise CheckpointError(f"nothing at {path}; name a file, a directory or a run")
    file = _weights_file(path) if path.is_dir() else path
    settings = _settings(file.parent if path.is_dir() else None)
    found = read_shards(file) if file.name in _SHARDS else read_file(file)
    if is_ours(found):
        raise CheckpointError(
            f"{file} has our names, but nothing says what they belong to; give the run's directory"
        )
    released = recognise(found, str(file))
    try:
        if released.is_bert:
            released = take_bert_layers(released, guess.language_layers, guess.bert_layers)
        model = infer_model(
            released.tensors, settings, is_bert=released.is_bert, num_heads=guess.num_heads
        )
        tensors = to_ours(released.tensors, model)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    description = Description(
        kind=kind_of(tensors), model=model, sizes=infer_sizes(released.tensors), source=path.name
    )
    weights = TaskWeights(str(file), description, tensors)
    ours.check(weights)
    count = len(released.tensors) + (TIED in released.dropped)
    dropped = tuple(name for name in released.dropped if name != TIED)
    return Source(
        released.label,
        _with_answers(weights, path, settings),
        released.tensors,
        count,
        tokenizers.in_directory(path) if path.is_dir() else None,
        dropped,
        heads_assumed=not (guess.num_heads or "num_attention_heads" in settings),
    )


def _weights_file(directory: Path) -> Path:
    """The file of weights in a directory: of Hugging Face, or the only one.

    Raises:
        CheckpointError: there is none, there are several, or they are DeepSpeed's own.
    """
    if any(directory.glob("*_states.pt")) or any(directory.glob("global_step*/*_states.pt")):
        raise CheckpointError(
            f"{directory} is a checkpoint of DeepSpeed itself, whose pickles hold code; "
            "give a checkpoint of ours, which fits every ZeRO stage"
        )
    for name in (*_SHARDS, *_WHOLE):
        if (directory / name).is_file():
            return directory / name
    files = sorted(file for file in directory.iterdir() if file.suffix in SUFFIXES)
    if len(files) != 1:
        what = ", ".join(file.name for file in files[:3]) or "none"
        raise CheckpointError(
            f"{directory} should hold one file of weights ({', '.join(SUFFIXES)}), there is: "
            f"{what}; name the file"
        )
    return files[0]


def _settings(directory: Path | None) -> Mapping[str, Any]:
    """A directory's ``config.json``; empty where there is none.

    Raises:
        CheckpointError: it is damaged, or of another architecture.
    """
    if directory is None or not (directory / "config.json").is_file():
        return {}
    path = directory / "config.json"
    try:
        settings = json.loads(path.read_text("utf-8"))
        kind = settings.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged; fetch it again") from error
    if kind not in ("lxmert", "bert", None):
        raise CheckpointError(f"{path} is of a {kind}; give weights of LXMERT or BERT")
    assert isinstance(settings, dict)
    return settings


def _with_answers(weights: TaskWeights, path: Path, settings: Mapping[str, Any]) -> TaskWeights:
    """The rows' names, if the directory has them: in a file of ours, or as ``id2label``."""
    rows = weights.description.sizes.get("num_answers")
    file = path / ANSWERS
    if rows and path.is_dir() and file.is_file():
        return name_rows(weights, read_answers(file), str(file))
    labels = settings.get("id2label")
    if not rows or not isinstance(labels, dict) or set(labels) != {str(i) for i in range(rows)}:
        return weights
    if any(label == f"LABEL_{i}" for i, label in labels.items()):
        return weights  # what Hugging Face writes where nobody named them
    return name_rows(weights, [str(labels[str(i)]) for i in range(rows)], "config.json")
