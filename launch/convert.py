"""Convert weights between LXMERT's formats; ``--help`` tells more."""

from lxmert_dist.cli.convert import main

if __name__ == "__main__":
    raise SystemExit(main())
