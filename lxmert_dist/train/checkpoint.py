"""Checkpoints: safetensors and JSON in a directory of any fsspec URI, complete or absent.

```
<uri>/step-00000400/
    weights.safetensors  exp_avg.safetensors  exp_avg_sq.safetensors     full fp32, by name
    state.json           where the run is, and what it was configured to be
    manifest.json        bytes and sha256 of the others; written last: without it, nothing is there
```

Every tensor is whole, so a checkpoint resumes at any ZeRO stage and any number of ranks.
"""

import hashlib
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

    def __init__(self, uri: str, files: Mapping[str, tuple[int, str]]) -> None:
        """``files``: by name, bytes and sha256."""
        self.uri = uri
        self._files = files

    def state(self) -> TrainState:
        """The run's state.

        Raises:
            CheckpointError: it is damaged or was written by another version.
        """
        with tempfile.TemporaryDirectory() as folder:
            tree = json.loads(self._fetch("state.json", folder).read_text())
        if tree.get("format") != FORMAT:
            raise CheckpointError(
                f"{self.uri} has format {tree.get('format')}, this version reads {FORMAT}"
            )
        return TrainState(**tree)

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The full fp32 tensors of one part (``engine.PARTS``) by parameter name.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = self._fetch(f"{part}.safetensors", folder)
            try:
                return load_file(file)
            except SafetensorError as error:
                raise CheckpointError(f"{self.uri}/{file.name}: {error}") from error

    def _fetch(self, name: str, folder: str) -> Path:
        """A verified copy of one file."""
        copy = Path(folder) / name
        try:
            uris.download(uris.join(self.uri, name), copy)
            found = (copy.stat().st_size, _digest(copy))
        except uris.MissingError as error:
            raise CheckpointError(f"{self.uri}/{name} is missing; {_FALL_BACK}") from error
        if found != self._files.get(name):
            raise CheckpointError(
                f"{self.uri}/{name} is damaged (length or checksum); {_FALL_BACK}"
            )
        return copy


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
                files[file.name] = _publish(file, target)
            file = Path(folder) / "state.json"
            file.write_text(json.dumps(asdict(state), indent=1))
            files[file.name] = _publish(file, target)
        manifest = json.dumps({"format": FORMAT, "files": files}, indent=1).encode()
        uris.write_bytes(uris.join(target, "manifest.json"), manifest)
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
        try:
            text = uris.read_bytes(uris.join(uri, "manifest.json"))
        except uris.MissingError:
            return None
        try:
            files = {k: (int(v[0]), str(v[1])) for k, v in json.loads(text)["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{uri}/manifest.json is damaged; remove {uri}") from error
        return Checkpoint(uri, files)


def find(uri: str) -> Checkpoint:
    """The newest complete checkpoint at a URI: a run's checkpoints, or its directory.

    Raises:
        CheckpointError: there is none.
    """
    for place in (uri, uris.join(uri, "checkpoints")):
        try:
            checkpoint = Checkpoints(place, 1).latest()
        except StoreError as error:
            raise CheckpointError(str(error)) from error
        if checkpoint is not None:
            return checkpoint
    raise CheckpointError(
        f"there is no complete checkpoint at {uri}; pretrain first, or use --set init=scratch"
    )


def _publish(file: Path, target: str) -> tuple[int, str]:
    """Upload a file, and remove it here; returns its bytes and sha256."""
    size, digest = file.stat().st_size, _digest(file)
    uris.upload(file, uris.join(target, file.name))
    file.unlink()
    return size, digest


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
