"""A small export and some images."""

from pathlib import Path

import pytest
from tiny_predictor import Colours, make_export, make_image

from lxmert_dist.predict import Predictor


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_export(tmp_path_factory.mktemp("predict") / "export")


@pytest.fixture
def predictor(export: Path) -> Predictor:
    return Predictor.load(export, detector=Colours())


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three images; the last has fewer regions than the others."""
    folder = tmp_path_factory.mktemp("photos")
    widths = (60, 60, 30)
    return [make_image(folder / f"{i}.png", i, width) for i, width in enumerate(widths)]
