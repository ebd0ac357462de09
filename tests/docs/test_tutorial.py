"""Every command of launch/README.md, in order, as a newcomer would type it, with real settings."""

import re

import pytest
from workplace import Workplace, run_page, servers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

PAGE = "launch/README.md"


def test_from_photographs_to_an_answer(tmp_path):
    workplace = Workplace(tmp_path, small=False)
    asked = {"image": "photos/exam/361.png", "question": "what color is the shape?"}
    special = servers(workplace, asked)
    del special["uv run mlflow ui"]
    *_, in_python, served = run_page(PAGE, workplace, special)
    answer = re.search(r"\d\s+(\w+)\s+0\.\d+", in_python)  # and its score
    assert answer, in_python
    assert answer[1] in served
    for file in ("predictions.jsonl", "runs/mine_tuned/report.html"):
        assert (workplace.home / file).stat().st_size > 0
    assert list((workplace.home / "pictures").rglob("*.png"))
