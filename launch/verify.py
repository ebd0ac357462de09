"""Check a feature store, and mend it from a copy: ``uv run launch/verify.py URI``."""

from lxmert_dist.cli.verify import main

if __name__ == "__main__":
    raise SystemExit(main())
