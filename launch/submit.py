"""Make the file that a task's server takes: ``uv run launch/submit.py TASK --predictions FILE``."""

from lxmert_dist.cli.submit import main

if __name__ == "__main__":
    raise SystemExit(main())
