"""What every command shares: its frame, its exit codes, and how it shows errors."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import lxmert_dist
from lxmert_dist.errors import LxmertError, StoppedError
from lxmert_dist.redact import redacted_output

_PACKAGE = Path(lxmert_dist.__file__).parent


def frame(description: str, epilog: str = "") -> argparse.ArgumentParser:
    """An argument parser with the options that all commands have.

    Args:
        description: the first lines of ``--help``.
        epilog: examples, shown as they stand.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_settings(parser: argparse.ArgumentParser, default_config: str) -> None:
    """The options that name the settings of a run; ``config.load_config`` takes both."""
    parser.add_argument(
        "--config",
        type=_config_file,
        default=default_config,
        metavar="FILE",
        help="settings in TOML; names below configs/ are there wherever one is (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one setting, e.g. --set train.zero_stage=2; may be repeated",
    )


def _config_file(name: str) -> Path:
    """A file of the user's, or else the one of that name that comes with the package."""
    path = Path(name)
    if path.parts[:1] == ("configs",) and not path.exists():
        for home in (_PACKAGE, _PACKAGE.parent):  # a wheel, a checkout
            if (home / path).exists():
                return home / path
    return path


def command_line(name: str) -> str:
    """How the command ``launch/NAME.py`` is started: from a checkout, or as a wheel installs it."""
    if (_PACKAGE.parent / "launch" / f"{name}.py").exists():
        return f"uv run launch/{name}.py"
    return f"lxmert-{name.replace('_', '-')}"


def run_command(
    action: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse, act, and turn errors into one or two lines.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage (also of settings), 130 interrupted, 75 ended
        by SIGTERM with a checkpoint, to be started again.
    """
    # Waiting threads that spin take the cores from the ones that read; set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with redacted_output():
        return _run(action, parser.parse_args(argv))


def _run(action: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    rank = os.environ.get("RANK")
    prefix = f"[rank {rank}] " if rank not in (None, "0") else ""
    try:
        action(arguments)
    except (LxmertError, OSError) as error:
        if arguments.debug:
            traceback.print_exc()
        label = "" if isinstance(error, StoppedError) else "error: "
        print(f"{prefix}{label}{error}", file=sys.stderr)  # noqa: T201
        return getattr(error, "exit_code", 1)
    except KeyboardInterrupt:
        print(f"{prefix}interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except Exception:  # a mistake of this program, which Python would show with its secrets
        traceback.print_exc()
        return 1
    return 0
