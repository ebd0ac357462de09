"""The command ``launch/pretrain.py``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lxmert_dist.cli.training import train_command, training_parser
from lxmert_dist.config import PretrainConfig

if TYPE_CHECKING:
    from lxmert_dist.train.run import Outcome

EXAMPLES = """\
examples:
  python launch/pretrain.py
  deepspeed --num_gpus 2 launch/pretrain.py --set train.zero_stage=2
  ray job submit --working-dir . -- python launch/pretrain.py --config FILE
  python launch/pretrain.py --set data.store=s3://bucket/prefix
The same command again goes on from the last good checkpoint. SIGTERM (preemption) and Ctrl-C leave
one at the end of the step; the codes are 75, which asks a scheduler for a restart, and 130. The
deepspeed and torchrun launchers pass the signal on, but end by a code of their own, 1.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = training_parser(
        "Pretrain LXMERT on a feature store, with all five tasks.",
        "configs/pretrain/easy_vqa.toml",
        EXAMPLES,
    )
    return train_command(parser, PretrainConfig, _summary, argv)


def _summary(config: PretrainConfig, outcome: "Outcome") -> str:
    from lxmert_dist.cli.summary import pretraining_summary

    return pretraining_summary(config, outcome)
