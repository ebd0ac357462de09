"""What a run ran on."""

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = (
    "lxmert_dist",
    "torch",
    "deepspeed",
    "ray",
    "transformers",
    "numpy",
    "zarr",
    "fsspec",
    "s3fs",
    "mlflow",
)


def environment_report() -> str:
    """Versions, system and cores, as JSON; nothing heavy is imported, no variable is told."""
    packages: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    report = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "commit": git_commit(),
        "packages": packages,
    }
    return json.dumps(report, indent=2)


def git_commit() -> str | None:
    """The commit that is checked out where this package lies; None outside a clone."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # an installed package may lie in some other clone
        return None
    try:
        told = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip()
