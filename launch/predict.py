"""Answer questions about images; ``--help`` tells more."""

from lxmert_dist.cli.predict import main

if __name__ == "__main__":
    raise SystemExit(main())
