"""Train a detector: ``uv run launch/train_detector.py --config FILE``; ``--help`` tells more."""

from lxmert_dist.cli.train_detector import main

if __name__ == "__main__":
    raise SystemExit(main())
