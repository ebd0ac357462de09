"""A detector in a directory: its settings, its weights, and the names of its classes.

``detector.toml``, ``objects.txt``, ``attributes.txt`` (if there are attributes), and one file of
weights of any name: ours, Hugging Face's ``pytorch_model.bin``, or detectron2's pickle of arrays.
"""

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from lxmert_dist.config import dump_toml, load_config
from lxmert_dist.config.detector import DetectorConfig
from lxmert_dist.detect.faster_rcnn import FasterRcnn
from lxmert_dist.detect.faster_rcnn_detector import FasterRcnnDetector
from lxmert_dist.detect.weights import load_weights
from lxmert_dist.errors import CheckpointError, ConfigError
from lxmert_dist.weight_files import SUFFIXES

SETTINGS, OBJECTS, ATTRIBUTES = "detector.toml", "objects.txt", "attributes.txt"
WEIGHTS = "model.safetensors"


def load_detector(
    directory: Path, *, overrides: Sequence[str] = (), device: str = "cpu"
) -> FasterRcnnDetector:
    """Open a detector.

    Args:
        directory: what is in it, says the module.
        overrides: settings that take the place of those in its file, as ``section.name=value``.
        device: where the network runs.

    Raises:
        ConfigError: there are no settings, one is wrong, or the names do not fit the classes.
        CheckpointError: there is not one file of weights, or it is damaged, holds code, or is of
            another detector.
    """
    settings = directory / SETTINGS
    if not settings.is_file():
        raise ConfigError(
            f"there is no {settings}; for the published weights: copy "
            "configs/detector/bottom_up.toml there"
        )
    config = load_config(DetectorConfig, settings, overrides)
    network = FasterRcnn(config)
    weights = _weights_in(directory)
    digest = load_weights(network, weights)
    has_attributes = config.regions.attribute_classes > 0
    return FasterRcnnDetector(
        config,
        network,
        object_classes=read_names(directory / OBJECTS),
        attribute_classes=read_names(directory / ATTRIBUTES) if has_attributes else (),
        name=f"Faster R-CNN {digest}",
        device=device,
    )


def save_detector(
    directory: Path,
    config: DetectorConfig,
    network: FasterRcnn,
    *,
    object_classes: Sequence[str],
    attribute_classes: Sequence[str],
) -> None:
    """Write a detector that :func:`load_detector` opens; files of the same names are replaced.

    Args:
        directory: is made where it is missing.
        config: of the network.
        network: with its weights.
        object_classes: their names, in the order of the weights.
        attribute_classes: theirs.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / SETTINGS).write_text(dump_toml(config), "utf-8")
    for file, names in ((OBJECTS, object_classes), (ATTRIBUTES, attribute_classes)):
        if names:
            (directory / file).write_text("".join(f"{name}\n" for name in names), "utf-8")
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, directory / WEIGHTS)


def read_names(path: Path) -> tuple[str, ...]:
    """The names of classes, one a line; what follows a comma are other words for the same.

    Raises:
        ConfigError: the file cannot be read, or a line is empty; names both.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the names of classes in {path} ({error}); put the list beside the "
            "weights, one name a line"
        ) from error
    names = tuple(line.split(",")[0].strip().lower() for line in lines)
    if "" in names:
        raise ConfigError(
            f"{path}:{names.index('') + 1} is empty; give every class a name, one a line"
        )
    return names


def _weights_in(directory: Path) -> Path:
    found = sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES)
    if len(found) != 1:
        there = ", ".join(path.name for path in found) or "none"
        raise CheckpointError(
            f"{directory} must hold one file of weights ({', '.join(SUFFIXES)}); there is: {there}"
        )
    return found[0]
