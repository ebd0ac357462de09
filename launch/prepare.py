"""Build a feature store: ``uv run launch/prepare.py easy-vqa --out URI``.

Also of LXMERT's published files (``lxmert``) or made up (``synthetic``); ``--help`` tells more.
"""

from lxmert_dist.cli.prepare import main

if __name__ == "__main__":
    raise SystemExit(main())
