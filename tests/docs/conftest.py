"""What pages go on from: the quickstart's store and runs, published data, converted weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import page_files
import pytest
from workplace import Workplace

from s3_server import S3Server

Folders = Callable[[str], Path]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """What pages name, by the name of what makes it; each is made once."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            maker = _RUN.get(name) or getattr(page_files, f"write_{name}")
            made[name] = maker(place, folder) if name in _RUN else maker(place)
        return made[name]

    return folder


def _quickstart(place: Path, folder: Folders) -> Path:
    """``data`` and ``runs``."""
    reader = Workplace(place)
    reader.run("uv run launch/pretrain.py && uv run launch/finetune.py")
    return _kept(reader, place / "kept", "data", "runs")


def _store(place: Path, folder: Folders) -> Path:
    """``data/lxmert``."""
    reader = Workplace(place).take(folder("published"))
    reader.run(
        "uv run launch/prepare.py lxmert --out data/lxmert --answers all_ans.json "
        "--tsv train2014_obj36.tsv val2014_obj36.tsv vg_gqa_obj36.tsv --json mscoco_train.json "
        "mscoco_nominival.json vgnococo.json mscoco_minival.json"
    )
    return _kept(reader, place / "kept", "data")


def _weights(place: Path, folder: Folders) -> Path:
    """``weights/lxmert`` and ``weights/bert``."""
    reader = Workplace(place).take(folder("published"), folder("foreign_weights"))
    reader.run(
        "uv run launch/convert.py --from model_LXRT.pth --answers all_ans.json "
        "--tokenizer bert-base-uncased --to lxmert_dist --out weights/lxmert\n"
        "uv run launch/convert.py --from bert-base-uncased --to lxmert_dist --out weights/bert"
    )
    return _kept(reader, place / "kept", "weights")


_RUN = {"quickstart": _quickstart, "store": _store, "weights": _weights}
"""What commands make."""


def _kept(reader: Workplace, place: Path, *names: str) -> Path:
    place.mkdir()
    for name in names:
        (reader.home / name).rename(place / name)
    return place


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.fixture
def bucket(s3: S3Server) -> S3Server:
    """A server with an empty bucket of the name that pages have."""
    named = replace(s3, bucket="bucket")
    client = named.client()
    if client.exists("bucket"):
        client.rm("bucket", recursive=True)
    if not client.exists("bucket"):
        client.mkdir("bucket")
    return named
