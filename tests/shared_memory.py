"""What processes that are gone have left behind by name in shared memory."""

from contextlib import suppress
from pathlib import Path

PLACE = Path("/dev/shm")


def names() -> set[str]:
    """Of everything that is there; none where the system has no such place."""
    return {path.name for path in PLACE.iterdir()} if PLACE.is_dir() else set()


def left_since(before: set[str]) -> set[str]:
    """New names that no living process maps: others may be at work on the same machine."""
    new = names() - before
    mapped = ""
    if new:
        for maps in Path("/proc").glob("[0-9]*/maps"):
            with suppress(OSError):  # it has ended meanwhile, or is another user's
                mapped += maps.read_text(errors="replace")
    return {name for name in new & names() if str(PLACE / name) not in mapped}
