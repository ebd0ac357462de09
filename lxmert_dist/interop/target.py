"""Weights to a folder, in the layout of each program, and what that program then says.

```
huggingface   model.safetensors, config.json, answers.json, tokenizer files
lxmert        model_LXRT.safetensors and model_LXRT.pth (or BEST.pth), answers.json, tokenizer/
lxmert_dist   weights.safetensors, model.json, manifest.json, tokenizer/
```

The released code opens only ``.pth``; ours hold plain tensors, which ``weights_only`` opens too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from lxmert_dist.errors import CheckpointError, ConfigError
from lxmert_dist.interop import hugging_face, ours, tokenizers
from lxmert_dist.interop.layouts import recognise
from lxmert_dist.interop.names import TIED, to_released
from lxmert_dist.interop.probe import UNEXPLAINED, Outputs, Probe
from lxmert_dist.interop.source import ANSWERS
from lxmert_dist.interop.tokenizers import FoundTokenizer
from lxmert_dist.store.sealed import digest, seal
from lxmert_dist.tasks.weights import DESCRIPTION, WEIGHTS, TaskWeights, open_export
from lxmert_dist.weight_files import read_file

Format = Literal["huggingface", "lxmert", "lxmert_dist"]

_SNAPSHOT = {"pretraining": "model_LXRT", "backbone": "model_LXRT"}
"""File stems of the released code; ``BEST`` is what its tasks write."""


def check_possible(weights: TaskWeights, to: Format) -> None:
    """Whether a program has a place for weights of this kind.

    Raises:
        ConfigError: it has none.
    """
    kind = weights.description.kind
    if kind == "bert" and to != "lxmert_dist":
        raise ConfigError(
            "BERT is no LXMERT yet, only a start for one: use --to lxmert_dist, and train with "
            "--set init=DIR"
        )
    if kind == "pair" and to == "huggingface":
        raise ConfigError(
            "transformers has no class for NLVR2's head over two images: use --to lxmert or "
            "--to lxmert_dist"
        )


def write(weights: TaskWeights, to: Format, folder: Path, tokenizer: FoundTokenizer | None) -> None:
    """Write all but the card into an empty folder; errors as the system raises them."""
    match to:
        case "huggingface":
            _write_hugging_face(weights, folder, tokenizer)
        case "lxmert":
            _write_released(weights, folder, tokenizer)
        case "lxmert_dist":
            _write_ours(weights, folder, tokenizer)


def outputs(weights: TaskWeights, to: Format, folder: Path, probe: Probe, eps: float) -> Outputs:
    """What the program that a folder was written for says of the probe, from the files alone.

    Args:
        weights: what was written.
        to: that program.
        folder: the files.
        probe: the input.
        eps: of the layer norms; ours knows its own.

    Raises:
        CheckpointError: it cannot open them.
    """
    description = weights.description
    match to:
        case "huggingface":
            return hugging_face.outputs_of_directory(folder, description.kind, probe, eps)
        case "lxmert":
            file = folder / f"{_stem(weights)}.pth"
            found = recognise(read_file(file), file.name)
            return hugging_face.outputs_of(found.tensors, description, probe, eps)
        case "lxmert_dist":
            export = open_export(str(folder))
            if export is None:
                raise CheckpointError(f"the export in {folder} is not complete; {UNEXPLAINED}")
            return ours.outputs(export, probe)


def _write_hugging_face(
    weights: TaskWeights, folder: Path, tokenizer: FoundTokenizer | None
) -> None:
    description = weights.description
    released = to_released(weights.tensors, description.model)
    released.pop(TIED, None)  # tied again when it is opened
    heads = frozenset(name.split(".")[0] for name in released)
    config = hugging_face.config_of(description, heads)
    config.architectures = [hugging_face.CLASSES[description.kind]]
    config.dtype = "float32"
    config.save_pretrained(folder)
    theirs = hugging_face.their_names(released, description.kind)
    _save(theirs, folder / "model.safetensors")
    _write_answers(weights, folder)
    if tokenizer:
        tokenizers.write(tokenizer, folder, complete=True)


def _write_released(weights: TaskWeights, folder: Path, tokenizer: FoundTokenizer | None) -> None:
    tensors = {
        _released_name(name, weights.description.kind): tensor
        for name, tensor in to_released(weights.tensors, weights.description.model).items()
    }
    stem = _stem(weights)
    torch.save(tensors, folder / f"{stem}.pth")
    tied = _released_name(TIED, weights.description.kind)
    apart = {name: tensor for name, tensor in tensors.items() if name != tied}
    _save(apart, folder / f"{stem}.safetensors")
    _write_answers(weights, folder)
    _write_beside(tokenizer, folder)


def _write_ours(weights: TaskWeights, folder: Path, tokenizer: FoundTokenizer | None) -> None:
    description = weights.description
    if tokenizer:
        update = {"vocabulary_digest": tokenizer.digest}
        description = description.model_copy(update=update)
    _save(weights.tensors, folder / WEIGHTS)
    (folder / DESCRIPTION).write_text(description.model_dump_json(indent=1) + "\n", "utf-8")
    _write_beside(tokenizer, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    seal(
        str(folder),
        {str(f.relative_to(folder)): (f.stat().st_size, digest(f)) for f in files},
    )


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write safetensors, for whom other new files are for; safetensors itself says for nobody."""
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata={"format": "pt"})
    path.chmod(mode)


def _stem(weights: TaskWeights) -> str:
    return _SNAPSHOT.get(weights.description.kind, "BEST")


def _released_name(name: str, kind: str) -> str:
    """As the released code saves it.

    A pretraining snapshot gets ``module.``, without which its pretraining loads nothing; its
    tasks take it off. A task's snapshot has the backbone inside its encoder.
    """
    if kind in _SNAPSHOT:
        return f"module.{name}"
    if name.startswith("bert."):
        return f"lxrt_encoder.model.{name}"
    return name.removeprefix("answer_head.").removeprefix("pair_head.")


def _write_answers(weights: TaskWeights, folder: Path) -> None:
    if weights.description.answers:
        text = json.dumps(list(weights.description.answers), ensure_ascii=False, indent=0)
        (folder / ANSWERS).write_text(text + "\n", "utf-8")


def _write_beside(tokenizer: FoundTokenizer | None, folder: Path) -> None:
    if tokenizer:
        (folder / "tokenizer").mkdir()
        tokenizers.write(tokenizer, folder / "tokenizer")
