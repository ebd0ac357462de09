"""From a run's directory to everything that its page shows."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lxmert_dist.config import FinetuneConfig, PretrainConfig, RunConfig, dump_toml, load_config
from lxmert_dist.errors import CheckpointError, ConfigError, StoreError
from lxmert_dist.redact import redact
from lxmert_dist.report.samples import Sample, read_samples
from lxmert_dist.report.statistics import DataStatistics, count_data
from lxmert_dist.store import uri as uris
from lxmert_dist.tasks import PretrainingTask
from lxmert_dist.tasks.answering import answer_loss_names
from lxmert_dist.tracking import read_metrics
from lxmert_dist.tracking.figures import Log
from lxmert_dist.train.checkpoint import Checkpoints
from lxmert_dist.train.engine import load_weights
from lxmert_dist.train.job import build

CONFIG, ENVIRONMENT, METRICS = "config.toml", "environment.json", "metrics.jsonl"


@dataclass(frozen=True)
class Looked:
    """What needs the run's store and weights."""

    data: DataStatistics
    samples: Sequence[Sample]
    weights_step: int
    """The step of the run that the weights are of."""
    parameters: int
    total_steps: int
    store_digest: str


@dataclass(frozen=True)
class Run:
    """A run, as its page shows it; without secrets."""

    config: RunConfig
    settings: str
    """As TOML."""
    log: Log
    environment: Mapping[str, object]
    loss_names: Sequence[str]
    looked: Looked | None
    """None where only the directory was read."""

    @property
    def step(self) -> int:
        """The last that was logged."""
        return self.log[-1][0]

    @property
    def validation(self) -> str:
        """What the metrics on held-out pairs begin with."""
        tuned = isinstance(self.config, FinetuneConfig)
        return self.config.data.validation_split if tuned else "valid"


def read_run(
    directory: Path, *, store: str = "", images: Path | None = None, samples: int = 8, deep: bool
) -> Run:
    """Read a run's directory, and, where ``deep``, its store and its newest weights.

    Args:
        directory: of the run; it may have been moved.
        store: where the store is, if no more where the run had it.
        images: folder of image files by image id, see ``find_picture``.
        samples: how many held-out pairs are looked at.
        deep: whether store and weights are read.

    Raises:
        ConfigError: the directory is not one of a run, or nothing was logged yet.
        StoreError, CheckpointError, DataError: the store, the weights or an image are missing,
            damaged, or of another run.
    """
    config = _config(directory, store)
    log = read_metrics(directory / METRICS)
    if not log:
        raise ConfigError(
            f"{directory / METRICS} is empty or missing: the run logged nothing yet; wait until it "
            "does"
        )
    file = directory / ENVIRONMENT
    names: Sequence[str] = PretrainingTask.loss_names
    if isinstance(config, FinetuneConfig):
        names = answer_loss_names(config.loss)
    return Run(
        config=config,
        settings=redact(dump_toml(config)),
        log=log,
        environment=json.loads(redact(file.read_text("utf-8"))) if file.exists() else {},
        loss_names=names,
        looked=_look(config, images, samples) if deep else None,
    )


def _config(directory: Path, store: str) -> RunConfig:
    file = directory / CONFIG
    if not file.is_file():
        raise ConfigError(
            f"{file} is missing, so {directory} is no directory of a run; give the one that "
            "--set directory=… named (the run's command, started again, writes the file)"
        )
    try:
        tree = tomllib.loads(file.read_text("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{file} is not TOML ({error}); correct it, or remove it and start the run's command "
            "again"
        ) from None
    kind: type[RunConfig] = PretrainConfig if "objectives" in tree else FinetuneConfig
    moved = [f"directory={json.dumps(str(directory))}"]
    moved += [f"data.store={json.dumps(store)}"] if store else []
    return load_config(kind, file, moved)


def _look(config: RunConfig, images: Path | None, samples: int) -> Looked:
    found = Checkpoints(config.checkpoint_uri).first_good(
        lambda checkpoint: (checkpoint.state(), checkpoint.tensors("weights"))
    )
    if found is None:
        raise CheckpointError(
            f"there is no complete checkpoint at {redact(config.checkpoint_uri)}; wait for the "
            "first, or leave out data and samples with --shallow"
        )
    state, weights = found
    job = build(config.model_copy(update={"init": "scratch"}))  # all weights are replaced
    there, here = state.store_digest[:12], job.store.digest[:12]
    if there != here:
        raise StoreError(
            f"the run was trained on store {there}, and {uris.shown(job.store.uri)} is {here}; say "
            "where the other is with --store"
        )
    load_weights(job.task, weights.items())
    return Looked(
        data=count_data(job.store, job.train_split, config.data.max_tokens),
        samples=list(read_samples(job, samples, images)),
        weights_step=state.step,
        parameters=sum(parameter.numel() for parameter in job.task.parameters()),
        total_steps=job.total_steps,
        store_digest=job.store.digest,
    )
