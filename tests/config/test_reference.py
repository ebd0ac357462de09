"""The reference of settings is the one that the code would write now."""

from pathlib import Path

from pydantic import BaseModel

from lxmert_dist.config import sections
from lxmert_dist.config.reference import TOPS, reference

FILE = Path(__file__).parents[2] / "configs" / "README.md"


def test_the_reference_is_up_to_date():
    advice = "python -m lxmert_dist.config.reference > configs/README.md"
    assert FILE.read_text() == reference(), advice


def test_every_setting_is_told_of():
    text = reference()
    kinds = [kind for kind, _ in TOPS]
    kinds += [
        k for k in vars(sections).values() if isinstance(k, type) and issubclass(k, BaseModel)
    ]
    for kind in kinds:
        for name in kind.model_fields:
            assert f"| `{name}` |" in text or f"### `[{name}]`" in text or name == "rows", name
