"""Write the page of a run: ``uv run launch/report.py RUN``; ``--help`` tells more."""

from lxmert_dist.cli.report import main

if __name__ == "__main__":
    raise SystemExit(main())
