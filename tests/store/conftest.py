"""What the tests of the store share."""

import pytest

from lxmert_dist.store import uri as uris


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between attempts."""
    monkeypatch.setattr(uris._jitter, "uniform", lambda low, high: low)
