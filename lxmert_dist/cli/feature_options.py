"""Where ``launch/prepare.py`` takes features from, and what they are."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lxmert_dist.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lxmert_dist.ingest import FeatureFormat

_OPTIONS = ("boxes", "min_boxes", "feature_dim", "object_classes", "attribute_classes", "extractor")


def feature_places(texts: Sequence[str]) -> list[Path | str]:
    """Files and directories as paths, a store as its URI.

    Raises:
        ConfigError: a store is given beside other features.
        StoreError: the place is out of reach.
    """
    from lxmert_dist.store import has_store

    places: list[Path | str] = []
    for text in texts:
        elsewhere = "://" in text
        stored = elsewhere or (Path(text).is_dir() and has_store(text))
        places.append((text if elsewhere else str(Path(text).absolute())) if stored else Path(text))
    if len(places) > 1 and any(isinstance(place, str) for place in places):
        raise ConfigError("--features must be one store, or any number of files and directories")
    return places


def stored_format(uri: str, arguments: argparse.Namespace) -> "FeatureFormat":
    """What the features of a store are: as its manifest says.

    Raises:
        ConfigError: an option says what the store knows itself.
        StoreError: there is no store, or it is out of reach.
    """
    from lxmert_dist.ingest import FeatureFormat, RowSizes
    from lxmert_dist.store import open_store

    for name in _OPTIONS:
        if getattr(arguments, name) is not None:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} is known to the store of features; leave it out")
    store = open_store(uri)
    manifest = store.manifest
    return FeatureFormat(
        sizes=RowSizes(manifest.num_objects, manifest.feature_dim, manifest.min_objects),
        object_classes=store.object_classes,
        attribute_classes=store.attribute_classes,
        dtype=arguments.dtype or manifest.feature_dtype,
        detector=manifest.extractor,
    )


def given_format(arguments: argparse.Namespace, **described: Any) -> "FeatureFormat":
    """What the features of files are: as the options say, else as published.

    Raises:
        DataError: a file of names cannot be read, or a number is out of range.
    """
    from lxmert_dist.ingest import FeatureFormat, RowSizes

    published = FeatureFormat()
    given = (("num_objects", arguments.boxes), ("feature_dim", arguments.feature_dim))
    sizes = {name: number for name, number in given if number is not None}
    return FeatureFormat(
        sizes=RowSizes(**sizes, min_objects=arguments.min_boxes),
        object_classes=_names(arguments.object_classes, published.object_classes),
        attribute_classes=_names(arguments.attribute_classes, published.attribute_classes),
        dtype=arguments.dtype or published.dtype,
        **described,
    )


def _names(path: Path | None, otherwise: Sequence[str]) -> Sequence[str]:
    """The lines of a file, if there is one."""
    if path is None:
        return otherwise
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); give a text file in UTF-8, one name a line"
        ) from error
