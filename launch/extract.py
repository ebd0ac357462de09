"""Make features of images: ``launch/extract.py --images URI --detector URI --out URI``."""

from lxmert_dist.cli.extract import main

if __name__ == "__main__":
    raise SystemExit(main())
