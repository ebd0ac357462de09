"""Pretrain LXMERT; without arguments on an embedded default. ``--help`` tells more."""

from lxmert_dist.cli.pretrain import main

if __name__ == "__main__":
    raise SystemExit(main())
