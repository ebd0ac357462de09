"""The settings of an ablation study: rows of a table, each a pretraining and a fine-tuning."""

import re
from typing import Annotated

from pydantic import Field, Strict, model_validator

from lxmert_dist.config.sections import Names, Section, TrackingConfig

Whole = Annotated[int, Field(ge=0)]
Seeds = Annotated[tuple[Whole, ...], Strict(False), Field(min_length=1)]


class AblationRow(Section):
    """One row: what is changed, and what was published for it."""

    name: str
    table: str = ""
    """Of the paper, that the row belongs to."""
    pretrained: bool = True
    """Whether fine-tuning starts from a pretraining; else from scratch."""
    pretrain: Names = ()
    """Changes to the settings of pretraining, as after ``--set``."""
    finetune: Names = ()
    """The same of fine-tuning."""
    published: dict[str, float] = Field(default_factory=dict)
    """Figures in percent to print beside ours, by task."""

    @property
    def slug(self) -> str:
        """The name of its directory."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")


Rows = Annotated[tuple[AblationRow, ...], Strict(False), Field(min_length=1)]


class AblationConfig(Section):
    """What is run, how often, and where it is kept."""

    name: str
    directory: str
    """Of the study; each row has a directory below it. A file may leave it out: ``runs/<name>``."""
    pretrain: str
    """The settings of pretraining that rows change: a TOML file."""
    finetune: str
    """The same of fine-tuning."""
    pretrain_set: Names = ()
    """Changes for all rows, as after ``--set``."""
    finetune_set: Names = ()
    seeds: Seeds = (9595,)
    """Each row is run with each seed."""
    launcher: Names = ()
    """What goes before the script, such as ``["deepspeed", "--num_gpus", "8"]``; empty is one
    process."""
    metric: str = "test/accuracy"
    """Of fine-tuning's end, a share of 1; the table has it in percent."""
    tracking: TrackingConfig = TrackingConfig()
    rows: Rows

    @model_validator(mode="after")
    def _rows_differ(self) -> "AblationConfig":
        slugs = [row.slug for row in self.rows]
        for row in self.rows:
            if not row.slug or slugs.count(row.slug) > 1:
                raise ValueError(
                    f"two rows are called {row.name!r}, or it has no letters; name each differently"
                )
            if row.pretrain and not row.pretrained:
                raise ValueError(
                    f"row {row.name!r} has settings of a pretraining, but none; leave them out, or "
                    "set pretrained=true"
                )
        return self
