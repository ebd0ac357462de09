"""Every command of README.md that is no matter of another test."""

from collections.abc import Callable

import pytest
from workplace import Workplace, run_page, servers

from hosts import network, why_not
from runs import ledger

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.ray,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "hosts can be made"),
    pytest.mark.timeout(3000),
]
PAGE = "README.md"


def elsewhere(test: str) -> Callable[[str], str]:
    """For a block that ``test`` has in the place of this one."""
    return lambda text: f"see {test}"


def test_every_command_works(workplace: Workplace, folders, tmp_path):
    """Ranks and Ray have ports of their own, on a host of their own."""
    workplace.take(folders("photo"))
    (tmp_path / "net").mkdir()
    with network(tmp_path / "net", ["here"]) as net:
        there = lambda text: workplace.run_on(net["here"], text)  # noqa: E731
        ui = servers(workplace, {})["uv run mlflow ui"]
        run_page(
            PAGE,
            workplace,
            {
                "pip install uv && uv run pytest": elsewhere("all of tests/"),
                "uv build": elsewhere("tests/packaging/test_wheel.py"),
                "uv run mlflow ui": ui,
                "uv run python launch/pretrain.py": there,
                "uv run ray get-auth-token": there,
            },
        )
    runs = workplace.home / "runs"
    alone = ledger(runs / "alone")
    assert len(alone) == 8
    for name in ("two", "two_more"):
        assert [e["identity"] for e in ledger(runs / name)] == [e["identity"] for e in alone]
    for name in ("ray", "first", "first_finetune"):
        assert len(ledger(runs / name)) == 8
