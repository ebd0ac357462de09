"""How features are read from a store."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ReadSettings:
    """What does not change what is read, but how."""

    backend: Literal["fsspec", "obstore"] = "fsspec"
    """What reads features from S3; obstore takes less CPU time."""
    patience_s: float = 60.0
    """How long an object is asked for, in the middle of a run, before the run stops."""
    cache: str = ""
    """Directory on this node for the features of a store that is elsewhere; empty is none."""
    cache_bytes: int = 0
    """Bound of it; 0 is what the disk has free."""
