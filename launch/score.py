"""Score predictions as a task does it: ``uv run launch/score.py TASK --predictions FILE``."""

from lxmert_dist.cli.score import main

if __name__ == "__main__":
    raise SystemExit(main())
