"""The command ``launch/finetune.py``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lxmert_dist.cli.training import train_command, training_parser
from lxmert_dist.config import FinetuneConfig

if TYPE_CHECKING:
    from lxmert_dist.train.run import Outcome

EXAMPLES = """\
examples:
  python launch/finetune.py --config configs/finetune/easy_vqa.toml
  python launch/finetune.py --set init=scratch
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = training_parser(
        "Fine-tune a pretrained LXMERT on questions with answers, and score the test split.",
        "configs/finetune/easy_vqa.toml",
        EXAMPLES,
    )
    return train_command(parser, FinetuneConfig, _summary, argv)


def _summary(config: FinetuneConfig, outcome: "Outcome") -> str:
    from lxmert_dist.cli.summary import finetuning_summary

    return finetuning_summary(config, outcome)
