import pytest
from easy_vqa_files import MeanDetector, write_data

from lxmert_dist.ingest import prepare_easy_vqa


@pytest.fixture
def data_dir(tmp_path):
    return write_data(tmp_path / "data")


@pytest.fixture
def prepare(tmp_path):
    """Prepare a small store quietly; keywords as of ``prepare_easy_vqa``. Gives its path."""

    def run(data_dir, name="store", **changes):
        settings = {"seed": 7, "detector": MeanDetector(), "valid_fraction": 0.2} | changes
        uri = str(tmp_path / name)
        prepare_easy_vqa(uri, data_dir=data_dir, progress=False, **settings)
        return uri

    return run
