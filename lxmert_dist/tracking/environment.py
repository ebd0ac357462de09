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
    report = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "commit": git_commit(),
        "packages": package_versions(),
    }
    return json.dumps(report, indent=2)


def package_versions() -> dict[str, str | None]:
    """The version of each package that a run's numbers depend on; None where it is absent."""
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


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
