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
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lxmert_dist.errors import CheckpointError, DamagedCheckpointError, StoreError
from lxmert_dist.store import uri as uris
from lxmert_dist.store.sealed import MANIFEST, Sealed, open_sealed, publish, seal
from lxmert_dist.tasks.weights import Description, TaskWeights, kind_of, open_export, read_model
from lxmert_dist.train.retention import Retention
from lxmert_dist.train.state import FORMAT, TrainState
from lxmert_dist.train.tensor_file import write_tensors

T = TypeVar("T")

_PREFIX = "step-"
_ADVICE = "remove this checkpoint, or bring the file back"


class Checkpoint:
    """One complete checkpoint."""

    def __init__(self, sealed: Sealed) -> None:
        """``sealed``: its directory."""
        self.uri = sealed.uri
        self._sealed = sealed
        self._verified: dict[str, Path] = {}

    def verify(self, folder: Path) -> None:
        """Check every file, and go on with what was checked.

        Args:
            folder: takes copies of what is not on this machine; they must stay.

        Raises:
            DamagedCheckpointError: a file is missing or is not what the manifest says.
        """
        for name in self._sealed.names:
            self._verified[name] = self._sealed.fetch(name, folder)

    @contextmanager
    def _file(self, name: str) -> Iterator[Path]:
        """A verified copy, for as long as the context."""
        if name in self._verified:
            yield self._verified[name]
            return
        with tempfile.TemporaryDirectory() as folder:
            yield self._sealed.fetch(name, Path(folder))

    def state(self) -> TrainState:
        """The run's state.

        Raises:
            CheckpointError: it is damaged or was written by another version.
        """
        with self._file("state.json") as file:
            tree = json.loads(file.read_text())
        if tree.get("format") != FORMAT:
            raise CheckpointError(
                f"{self.uri} has format {tree.get('format')}, this version reads {FORMAT}; use the "
                "version that wrote it"
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
        with self._file(f"{part}.safetensors") as file:
            try:
                return load_file(file)
            except SafetensorError as error:
                raise CheckpointError(
                    f"{self.uri}/{file.name} is damaged ({error}); {_ADVICE}"
                ) from error

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
            detector=state.detector,
            exclusive=state.config.get("loss") == "cross_entropy",
            max_tokens=state.config["data"]["max_tokens"],
            source=f"step {state.step} of run {state.config.get('name', '')}".strip(),
        )
        store, run_id = state.config["data"]["store"], state.tracker_run_id or ""
        return TaskWeights(self.uri, description, tensors, store, run_id)


class Checkpoints:
    """The checkpoints of a run."""

    def __init__(self, uri: str, retention: Retention | None = None) -> None:
        """``retention``: what stays when another one is saved."""
        self.uri = uri
        self._retention = retention or Retention()
        self._metrics: dict[int, Mapping[str, float]] = {}

    def place(self, step: int) -> str:
        """The URI of a step's checkpoint."""
        return uris.join(self.uri, _name(step))

    def save(self, state: TrainState, parts: Mapping[str, Mapping[str, Tensor]]) -> str:
        """Write a checkpoint, then drop what need not stay; returns its URI.

        Steps beyond this one are of a future that the run gave up when it went back; they go too.

        Args:
            state: where the run is.
            parts: float32 tensors of the CPU by part (``engine.PARTS``) and parameter.

        Raises:
            StoreError, OSError: the place cannot be written (full, forbidden, unreachable); what
                was complete before stays complete.
        """
        target = self.place(state.step)
        _remove(target)
        try:
            self._write(target, state, parts)
        except BaseException:
            with suppress(StoreError, OSError), uris.patience(0.0):
                uris.delete_tree(target)  # a full disk has better uses
            raise
        self._metrics[state.step] = state.metrics
        self._tidy(state.step)
        return target

    def first_good(self, read: Callable[[Checkpoint], T]) -> T | None:
        """What ``read`` makes of the newest checkpoint that is not damaged; None if none is there.

        Those before it are warned of.

        Raises:
            CheckpointError: all that are there are damaged.
        """
        damaged: list[str] = []
        names = self._names()
        for name in reversed(names):
            try:
                checkpoint = self.at(uris.join(self.uri, name))
                if checkpoint is not None:
                    found = read(checkpoint)
                    for problem in damaged:
                        _warn(f"{problem}. Going back to {checkpoint.uri}")
                    return found
            except DamagedCheckpointError as error:
                damaged.append(str(error).partition(";")[0])
        if names != self._names():  # the run went on under our eyes
            return self.first_good(read)
        if damaged:
            raise CheckpointError(
                f"no good checkpoint is left at {uris.shown(self.uri)}: {'; '.join(damaged)}. "
                "Bring one back, or remove them to start anew"
            )
        return None

    def latest(self) -> Checkpoint | None:
        """The newest complete checkpoint, if there is one; its files are not looked into.

        Raises:
            CheckpointError: there are some, but all their manifests are damaged.
        """
        return self.first_good(lambda checkpoint: checkpoint)

    def at(self, uri: str) -> Checkpoint | None:
        """The checkpoint at exactly this URI, if a complete one is there.

        Raises:
            DamagedCheckpointError: its manifest is damaged.
        """
        sealed = open_sealed(uri, _ADVICE)
        return None if sealed is None else Checkpoint(sealed)

    def _write(
        self, target: str, state: TrainState, parts: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        files = {}
        local = uris.local_path(target)
        with tempfile.TemporaryDirectory() as temporary:
            # On a disk of ours the files are written where they belong: without the manifest they
            # are nothing yet.
            folder = local or Path(temporary)
            for part, tensors in parts.items():
                file = folder / f"{part}.safetensors"
                with uris.translated(str(folder), written=str(file)):
                    folder.mkdir(parents=True, exist_ok=True)
                    files[file.name] = write_tensors(file, tensors)
                if local is None:
                    uris.upload(file, uris.join(target, file.name))
                    file.unlink()
            file = Path(temporary) / "state.json"
            file.write_text(json.dumps(asdict(state), indent=1))
            files[file.name] = publish(file, target)
        seal(target, files)

    def _tidy(self, newest: int) -> None:
        """Drop what need not stay beside the newest, and what was never completed."""
        complete = {}
        for name in self._names():
            step, checkpoint = int(name.removeprefix(_PREFIX)), None
            with suppress(DamagedCheckpointError):
                checkpoint = self.at(self.place(step))
            if checkpoint is None or step > newest:
                _remove(self.place(step))
            else:
                complete[step] = checkpoint
        if self._retention.best:
            for step in complete.keys() - self._metrics.keys():
                self._metrics[step] = {}
                with suppress(CheckpointError):
                    self._metrics[step] = complete[step].state().metrics
        stay = self._retention.kept(sorted(complete), self._metrics)
        for step in complete.keys() - stay:
            _remove(self.place(step))

    def _names(self) -> list[str]:
        """Oldest first."""
        found = [name for name in uris.list_dir(self.uri) if _is_step(name)]
        return sorted(found, key=lambda name: int(name.removeprefix(_PREFIX)))


def find(uri: str) -> Checkpoint:
    """The checkpoint at a URI, or the newest complete one of a run: its checkpoints or directory.

    Raises:
        CheckpointError: there is none.
    """
    found = _find(uri, lambda checkpoint: checkpoint)
    if found is None:
        raise _nothing(uri)
    return found


def find_weights(uri: str) -> TaskWeights:
    """The weights at a URI: an export of ``launch/convert.py``, or those of a checkpoint.

    Of a run they are the newest that are not damaged.

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
    return _find(uri, Checkpoint.weights)


def _find(uri: str, read: Callable[[Checkpoint], T]) -> T | None:
    """What ``read`` makes of the checkpoint at a URI, or of the newest good one of a run."""
    try:
        itself = Checkpoints(uri).at(uri) if _is_step(uri.rstrip("/").rpartition("/")[2]) else None
        if itself is not None:
            return read(itself)
        for place in (uri, uris.join(uri, "checkpoints")):
            found = Checkpoints(place).first_good(read)
            if found is not None:
                return found
    except CheckpointError:
        raise
    except StoreError as error:
        raise CheckpointError(str(error)) from error
    return None


def _name(step: int) -> str:
    return f"{_PREFIX}{step:08d}"


def _is_step(name: str) -> bool:
    return name.startswith(_PREFIX) and name.removeprefix(_PREFIX).isdecimal()


def _remove(uri: str) -> None:
    """Manifest first: whoever looks now finds nothing, and whoever reads it finds the next."""
    uris.delete_tree(uris.join(uri, MANIFEST))
    uris.delete_tree(uri)


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)  # noqa: T201


def _nothing(uri: str) -> CheckpointError:
    return CheckpointError(
        f"there is no complete checkpoint at {uri}; pretrain first, convert weights "
        "(launch/convert.py), or use --set init=scratch"
    )
