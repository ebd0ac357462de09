"""Simulate an epoch of a feature store: ``uv run launch/plan.py URI``; ``--help`` tells more."""

from lxmert_dist.cli.plan import main

if __name__ == "__main__":
    raise SystemExit(main())
