"""Pages whose commands one machine can run: each command, as it stands there, in order."""

from pathlib import Path

import pytest
from page_files import QUESTION
from workplace import of_page, run_page, servers

from lxmert_dist.store import open_store
from pages import Page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.s3,
    pytest.mark.timeout(3000),
]
PAGES = {
    "lxmert_dist/detect/README.md": ("detector", "photo", "nlvr1"),
    "lxmert_dist/ingest/README.md": ("published", "originals", "own", "photos", "detector"),
    "lxmert_dist/interop/README.md": ("quickstart", "published", "foreign_weights", "store"),
    "lxmert_dist/model/README.md": ("weights",),
    "lxmert_dist/predict/README.md": ("quickstart", "photo"),
    "lxmert_dist/store/README.md": ("quickstart", "photo"),
    "lxmert_dist/stream/README.md": (),
    "lxmert_dist/tasks/README.md": ("published", "tasks", "own", "weights"),
    "lxmert_dist/train/README.md": ("quickstart",),
}
"""What each names, that its commands do not make."""
IN_THE_BUCKET = {
    "lxmert_dist/ingest/README.md": ("photos", "photos"),
    "lxmert_dist/model/README.md": ("store", "data/lxmert"),
    "lxmert_dist/stream/README.md": ("store", "data/lxmert"),
}
"""And a folder in object storage: whose, and where it is there."""


@pytest.mark.parametrize("name", PAGES)
def test_every_command_works(name, workplace, folders, request):
    if any("s3://" in block.text for block in Page(name).blocks):
        bucket = request.getfixturevalue("bucket")
        workplace.env |= bucket.environment()
        if name in IN_THE_BUCKET:
            owner, place = IN_THE_BUCKET[name]
            bucket.upload(folders(owner) / place, Path(place).name)
    workplace.take(*(folders(folder) for folder in PAGES[name]))
    asked = {"image": "photo.png", "question": QUESTION}
    said = run_page(name, workplace, of_page(name, servers(workplace, asked)))
    CHECKS.get(name, lambda home, said: None)(workplace.home, said)


def _predict(home: Path, said: list[str]) -> None:
    answers = open_store(str(home / "data" / "easy_vqa")).answers
    assert any(answer in said[-1] for answer in answers)
    assert len(list((home / "pictures").rglob("*.png"))) > 9


def _train(home: Path, said: list[str]) -> None:
    assert (home / "runs" / "kept" / "report.html").stat().st_size > 10_000


def _tasks(home: Path, said: list[str]) -> None:
    assert (home / "submit.json").stat().st_size > 2
    assert any("95 % interval" in text for text in said)


CHECKS = {
    "lxmert_dist/predict/README.md": _predict,
    "lxmert_dist/tasks/README.md": _tasks,
    "lxmert_dist/train/README.md": _train,
}
"""What their commands leave, beyond the code 0."""
