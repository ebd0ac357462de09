"""Checkpoints: safetensors and JSON in a directory of any fsspec URI, complete or absent.

```
<uri>/step-00000400/
    weights.safetensors  exp_avg.safetensors  exp_avg_sq.safetensors     full fp32, by name
    state.json           where the run is, and what it was configured to be
    manifest.json        bytes and sha256 of the others; written last: without it, nothing is there
```

Every tensor is whole, so a checkpoint resumes at any ZeRO stage and any number of ranks.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lxmert_dist.errors import CheckpointError, StoreError
from lxmert_dist.store import uri as uris
from lxmert_dist.store.sealed import Sealed, open_sealed, publish, seal
from lxmert_dist.tasks.weights import Description, TaskWeights, kind_of, open_export, read_model

FORMAT = 1
_FALL_BACK = "remove this checkpoint to go on from the one before"


@dataclass(frozen=True)
class TrainState:
    """Where a run is, and what it belongs to."""

    step: int
    """Optimiser steps done."""
    epoch: int
    """Of the next step."""
    epoch_step: int
    """Of the next step, within its epoch."""
    plan_version: int
    store_digest: str
    fingerprint: str
    config: dict[str, Any]
    data_spec: dict[str, int]
    tokenizer_digest: str
    answers: list[str]
    object_classes: list[str]
    attribute_classes: list[str]
    tracker_run_id: str | None = None
    format: int = FORMAT
    versions: dict[str, str | None] = field(default_factory=dict)


class Checkpoint:
    """One complete checkpoint."""

    def __init__(self, sealed: Sealed) -> None:
        """``sealed``: its directory."""
        self.uri = sealed.uri
        self._sealed = sealed

    def state(self) -> TrainState:
        """The run's state.

        Raises:
            CheckpointError: it is damaged or was written by another version.
        """
        with tempfile.TemporaryDirectory() as folder:
            tree = json.loads(self._sealed.fetch("state.json", Path(folder)).read_text())
        if tree.get("format") != FORMAT:
            raise CheckpointError(
                f"{self.uri} has format {tree.get('format')}, this version reads {FORMAT}"
            )
        try:
            return TrainState(**tree)
        except TypeError as error:
            raise CheckpointError(
                f"{self.uri}/state.json has other fields than this version reads ({error}); "
                "use the version that wrote it"
            ) from error

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The full fp32 tensors of one part (``engine.PARTS``) by parameter name.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = self._sealed.fetch(f"{part}.safetensors", Path(folder))
            try:
                return load_file(file)
            except SafetensorError as error:
                raise CheckpointError(f"{self.uri}/{file.name}: {error}") from error

    def weights(self) -> TaskWeights:
        """The weights, and what they belong to.

        Raises:
            CheckpointError: a file is missing or damaged, or of another version.
        """
        state, tensors = self.state(), self.tensors("weights")
        description = Description(
            kind=kind_of(tensors),
            model=read_model(state.config.get("model"), self.uri),
            sizes=state.data_spec,
            answers=tuple(state.answers),
            object_classes=tuple(state.object_classes),
            attribute_classes=tuple(state.attribute_classes),
            tokenizer_digest=state.tokenizer_digest,
            source=f"step {state.step} of run {state.config.get('name', '')}".strip(),
        )
        return TaskWeights(self.uri, description, tensors, state.config["data"]["store"])


class Checkpoints:
    """The checkpoints of a run, newest last."""

    def __init__(self, uri: str, keep: int) -> None:
        """``keep``: how many complete ones stay."""
        self.uri = uri
        self._keep = keep

    def save(self, state: TrainState, parts: Mapping[str, Iterator[tuple[str, Tensor]]]) -> str:
        """Write a checkpoint, then drop the oldest ones; returns its URI.

        Raises:
            StoreError: the place cannot be written (full, forbidden, unreachable); what was
                complete before stays complete.
        """
        target = uris.join(self.uri, f"step-{state.step:08d}")
        uris.delete_tree(target)
        files = {}
        with tempfile.TemporaryDirectory() as folder:
            for part, tensors in parts.items():
                file = Path(folder) / f"{part}.safetensors"
                save_file(dict(tensors), file)
                files[file.name] = publish(file, target)
            file = Path(folder) / "state.json"
            file.write_text(json.dumps(asdict(state), indent=1))
            files[file.name] = publish(file, target)
        seal(target, files)
        for old in self._steps()[: -self._keep]:
            uris.delete_tree(uris.join(self.uri, old))
        return target

    def latest(self) -> Checkpoint | None:
        """The newest complete checkpoint, if there is one.

        Raises:
            CheckpointError: its manifest is damaged.
        """
        for name in reversed(self._steps()):
            checkpoint = self._complete(uris.join(self.uri, name))
            if checkpoint is not None:
                return checkpoint
        return None

    def _steps(self) -> list[str]:
        return sorted(name for name in uris.list_dir(self.uri) if name.startswith("step-"))

    def open(self, uri: str) -> Checkpoint:
        """The checkpoint at exactly this URI.

        Raises:
            CheckpointError: there is no complete one, e.g. because another host wrote it to a disk
                that this one does not see.
        """
        checkpoint = self._complete(uri)
        if checkpoint is None:
            raise CheckpointError(
                f"there is no complete checkpoint at {uri} on this host; "
                "set checkpoint.uri to a place that all hosts share"
            )
        return checkpoint

    def _complete(self, uri: str) -> Checkpoint | None:
        sealed = open_sealed(uri, _FALL_BACK)
        return None if sealed is None else Checkpoint(sealed)


def find(uri: str) -> Checkpoint:
    """The checkpoint at a URI, or the newest complete one of a run: its checkpoints or directory.

    Raises:
        CheckpointError: there is none.
    """
    found = _find(uri)
    if found is None:
        raise _nothing(uri)
    return found


def find_weights(uri: str) -> TaskWeights:
    """The weights at a URI: an export of ``launch/convert.py``, or else :func:`find`'s.

    Raises:
        CheckpointError: there are none, or they are damaged.
    """
    found = weights_at(uri)
    if found is None:
        raise _nothing(uri)
    return found


def weights_at(uri: str) -> TaskWeights | None:
    """Like :func:`find_weights`; None where nothing of ours is."""
    try:
        export = open_export(uri)
    except StoreError as error:
        raise CheckpointError(str(error)) from error
    if export is not None:
        return export
    checkpoint = _find(uri)
    return None if checkpoint is None else checkpoint.weights()


def _find(uri: str) -> Checkpoint | None:
    try:
        itself = open_sealed(uri, _FALL_BACK) if _is_step(uri) else None
        if itself is not None:
            return Checkpoint(itself)
        for place in (uri, uris.join(uri, "checkpoints")):
            checkpoint = Checkpoints(place, 1).latest()
            if checkpoint is not None:
                return checkpoint
    except StoreError as error:
        raise CheckpointError(str(error)) from error
    return None


def _is_step(uri: str) -> bool:
    return uri.rstrip("/").rpartition("/")[2].startswith("step-")


def _nothing(uri: str) -> CheckpointError:
    return CheckpointError(
        f"there is no complete checkpoint at {uri}; pretrain first, convert weights "
        "(launch/convert.py), or use --set init=scratch"
    )
