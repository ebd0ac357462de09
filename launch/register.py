"""Weights into MLflow's registry: ``uv run launch/register.py --help`` tells how."""

from lxmert_dist.cli.register import main

if __name__ == "__main__":
    raise SystemExit(main())
