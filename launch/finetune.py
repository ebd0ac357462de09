"""Fine-tune a pretrained LXMERT on questions with answers; ``--help`` tells more."""

from lxmert_dist.cli.finetune import main

if __name__ == "__main__":
    raise SystemExit(main())
