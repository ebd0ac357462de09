"""What pretraining and fine-tuning share as commands: settings, launcher, store, run."""

import argparse
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

from lxmert_dist.cli.command import add_settings, frame, run_command
from lxmert_dist.cluster.launcher import (
    LAUNCHERS,
    Launcher,
    detect,
    tell_meeting_place,
    use_threads,
    world,
)
from lxmert_dist.config import RunConfig, deepspeed_config, dump_toml, load_config
from lxmert_dist.errors import LxmertError, StoreError

if TYPE_CHECKING:
    from lxmert_dist.train.run import Outcome

Config = TypeVar("Config", bound=RunConfig)


def training_parser(description: str, default_config: str, epilog: str) -> argparse.ArgumentParser:
    """The options of a command that trains."""
    parser = frame(description, epilog)
    add_settings(parser, default_config)
    parser.add_argument(
        "--launcher",
        choices=("auto", *LAUNCHERS),
        default="auto",
        help="what started the ranks; auto looks at the environment (default)",
    )
    parser.add_argument(
        "--print-config",
        nargs="?",
        const="toml",
        choices=("toml", "deepspeed"),
        help="print the settings, or what DeepSpeed is told, and stop",
    )
    # The deepspeed launcher appends this; the rank comes from the environment.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    return parser


def train_command(
    parser: argparse.ArgumentParser,
    kind: type[Config],
    summarise: Callable[[Config, "Outcome"], str],
    argv: Sequence[str] | None,
) -> int:
    """Run a command that trains, and say what came of it; returns the exit code."""

    def act(arguments: argparse.Namespace) -> None:
        config = load_config(kind, arguments.config, arguments.set)
        named: Launcher | Literal["auto"] = arguments.launcher
        launcher = detect(os.environ) if named == "auto" else named
        if arguments.print_config:
            print_config(config, arguments.print_config, launcher)
            return
        outcome, speaks = launch(config, launcher)
        if speaks:
            print(summarise(config, outcome))  # noqa: T201

    return run_command(act, parser, argv)


def print_config(config: RunConfig, how: str, launcher: Launcher) -> None:
    """Show what would be run."""
    if how == "toml":
        print(dump_toml(config), end="")  # noqa: T201
        return
    ranks = config.cluster.most if launcher == "ray" else world(launcher, os.environ).size
    print(json.dumps(deepspeed_config(config, world_size=ranks), indent=2))  # noqa: T201


def launch(config: RunConfig, launcher: Launcher) -> tuple["Outcome", bool]:
    """Prepare the store if the configuration says so, and run.

    Returns:
        What came of it, and whether this process is the one that should say so.

    Raises:
        LxmertError: as ``run`` and ``run_on_ray``.
    """
    if launcher == "ray":
        from lxmert_dist.cluster.ray_train import check_places, run_on_ray

        check_places(config)
        prepare_if_missing(config)
        return run_on_ray(config), True
    from lxmert_dist.train.run import run
    from lxmert_dist.train.world import agree, introduction, join, leave

    tell_meeting_place(launcher, os.environ)
    here = world(launcher, os.environ)
    deepspeed_config(config, world_size=here.size)  # refuses sizes that do not divide, at once
    use_threads(config.train.threads, here.local_size, os.environ)
    if here.size > 1:
        print(introduction(here, socket.gethostname()), file=sys.stderr)  # noqa: T201
    join(here, timeout_seconds=config.cluster.timeout_seconds)
    try:
        problem = ""
        if here.is_main:
            try:
                prepare_if_missing(config)
            except LxmertError as error:
                problem = str(error)
        problem = agree(problem, here)
        if problem:
            raise StoreError(problem)
        return run(config, here, launcher), here.is_main
    finally:
        leave(here)


def prepare_if_missing(config: RunConfig) -> None:
    """Build the store that ``prepare`` names, where there is none at ``data.store``."""
    from lxmert_dist.store import has_store

    if config.prepare == "none" or has_store(config.data.store):
        return
    from lxmert_dist.cli.prepare import prepare_easy_vqa_store

    prepare_easy_vqa_store(config.data.store, seed=config.seed)
