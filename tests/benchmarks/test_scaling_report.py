"""SCALING.md is what its script renders from the committed records."""

import importlib
from types import ModuleType

import pytest

from runs import ROOT


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("report_scaling")


def test_the_committed_page_is_rendered(report) -> None:
    assert (ROOT / "benchmarks" / "SCALING.md").read_text() == report.rendered()


def test_without_a_measurement_it_says_so(report) -> None:
    assert "Not measured yet" in "\n".join(report.evidence(None))
