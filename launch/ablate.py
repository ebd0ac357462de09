"""Rows of an ablation table: ``uv run launch/ablate.py --config FILE``; ``--help`` tells more."""

from lxmert_dist.cli.ablate import main

if __name__ == "__main__":
    raise SystemExit(main())
