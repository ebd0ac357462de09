"""Look for images of evaluation splits in a store: ``uv run launch/audit.py STORE --task FILE``."""

from lxmert_dist.cli.audit import main

if __name__ == "__main__":
    raise SystemExit(main())
