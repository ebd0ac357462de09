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

With Ray, [cluster] says how many workers there are and what each takes; on 8 nodes of 8 GPUs:
  --set cluster.workers=64 --set cluster.gpus_per_worker=1 --set cluster.cpus_per_worker=8
or, to go on with what is there of them: --set cluster.min_workers=8 --set cluster.max_workers=64.
ray job stop kills after 3 s, unless the job was submitted with more for the last checkpoint:
  --runtime-env-json '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "40"}}'
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
