"""Weights by our names, and what they belong to; an export of ``launch/convert.py`` holds them.

```
<uri>/weights.safetensors   fp32, by parameter name
<uri>/model.json            a Description
<uri>/tokenizer/…           where one is known
<uri>/manifest.json         see store.sealed
```
"""

import hashlib
import json
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.errors import CheckpointError
from lxmert_dist.schema import DataSpec
from lxmert_dist.store.sealed import open_sealed

FORMAT = 1
WEIGHTS, DESCRIPTION = "weights.safetensors", "model.json"
TOKENIZER = "tokenizer/"
_ADVICE = "check that this is an export of launch/convert.py, and convert again"

Kind = Literal["pretraining", "answering", "pair", "backbone", "bert"]
"""Which tensors there are: the backbone with heads of pretraining, with an answer head, with a head
over two images (NLVR2), alone; or the parts of LXMERT that BERT has."""


class Description(BaseModel):
    """What weights belong to. Empty fields are unknown."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: int = FORMAT
    kind: Kind
    model: ModelConfig
    sizes: dict[str, int]
    """Fields of ``DataSpec``, as far as they are known."""
    answers: tuple[str, ...] = ()
    """Of the rows of the answer head, normalised or not."""
    object_classes: tuple[str, ...] = ()
    attribute_classes: tuple[str, ...] = ()
    tokenizer_digest: str = ""
    """Over the tokenizer's files, as in the manifest of a store."""
    vocabulary_digest: str = ""
    """Over the word pieces in the order of their ids, see :func:`vocabulary_digest`."""
    detector: str = ""
    """What described the images, as in the manifest of a store."""
    exclusive: bool = False
    """Whether one answer is right, and scores are a softmax; else each is judged by itself."""
    max_tokens: int = 0
    """Longest sentence, special tokens included; 0 is unknown."""
    source: str = ""
    """Where the weights come from, for people."""

    @property
    def partial(self) -> bool:
        """Whether parts of the backbone are absent, and start fresh."""
        return self.kind == "bert"

    @property
    def spec(self) -> DataSpec:
        """The sizes, with 0 for the unknown ones."""
        return DataSpec(**{f.name: self.sizes.get(f.name, 0) for f in fields(DataSpec)})


@dataclass(frozen=True)
class TaskWeights:
    """Weights by our names, whole and fp32."""

    uri: str
    description: Description
    tensors: Mapping[str, Tensor]
    store: str = ""
    """The feature store that a run read; empty for other weights."""
    run_id: str = ""
    """Of that run in its tracker; empty where there is none."""
    tokenizer: Mapping[str, bytes] = field(default_factory=dict)
    """Files of the tokenizer that an export holds, by name."""


def open_export(uri: str) -> TaskWeights | None:
    """The export at a URI, or None where there is none.

    Raises:
        CheckpointError: it is damaged, or was written by another version.
        StoreError: the place is out of reach.
    """
    sealed = open_sealed(uri, _ADVICE)
    if sealed is None or DESCRIPTION not in sealed:
        return None
    with tempfile.TemporaryDirectory() as folder:
        text = sealed.fetch(DESCRIPTION, Path(folder)).read_text("utf-8")
        try:
            description = Description.model_validate_json(text)
        except ValidationError as error:
            raise _another_version(f"{uri}/{DESCRIPTION}", error) from error
        if description.format != FORMAT:
            raise CheckpointError(
                f"{uri} has format {description.format}, this version reads {FORMAT}; use the "
                "version that wrote it"
            )
        try:
            tensors = load_file(sealed.fetch(WEIGHTS, Path(folder)))
        except SafetensorError as error:
            raise CheckpointError(f"{uri}/{WEIGHTS} is damaged ({error}); {_ADVICE}") from error
        tokenizer = {
            name.removeprefix(TOKENIZER): sealed.fetch(name, Path(folder)).read_bytes()
            for name in sealed.names
            if name.startswith(TOKENIZER)
        }
    return TaskWeights(uri, description, tensors, tokenizer=tokenizer)


def read_model(tree: object, place: str) -> ModelConfig:
    """The model settings that a checkpoint keeps as a tree.

    Raises:
        CheckpointError: another version wrote them.
    """
    try:
        return ModelConfig.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        raise _another_version(place, error) from error


def kind_of(names: Collection[str]) -> Kind:
    """Which tensors there are, by our names."""
    heads = {name.partition(".")[0] for name in names} - {"model"}
    if not any(name.startswith("model.cross_modality_encoder.") for name in names):
        return "bert"
    if "pair_head" in heads:
        return "pair"
    if heads - {"answer_head"}:
        return "pretraining"
    return "answering" if heads else "backbone"


def vocabulary_digest(files: Mapping[str, bytes]) -> str:
    """64 hex digits over the word pieces of a tokenizer, whatever files they are in.

    Args:
        files: of the tokenizer, by name.

    Returns:
        The digest; empty where the pieces are in none of ``vocab.txt`` and ``tokenizer.json``.
    """
    pieces = word_pieces(files)
    return hashlib.sha256("\n".join(pieces).encode()).hexdigest() if pieces else ""


def word_pieces(files: Mapping[str, bytes]) -> list[str]:
    """The word pieces of a tokenizer in the order of their ids; none where they are not found."""
    if "tokenizer.json" in files:
        vocabulary: dict[str, int] = json.loads(files["tokenizer.json"])["model"]["vocab"]
        return sorted(vocabulary, key=lambda piece: vocabulary[piece])
    return files.get("vocab.txt", b"").decode().splitlines()


def _another_version(place: str, error: ValidationError) -> CheckpointError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return CheckpointError(
        f"{place} is not of this version ({where}: {first['msg']}); use the version that wrote it"
    )
