"""What processes that are gone have left behind by name in shared memory."""

from contextlib import suppress
from pathlib import Path

PLACE = Path("/dev/shm")


def names() -> set[str]:
    """Of everything that is there; none where the system has no such place."""
    return {path.name for path in PLACE.iterdir()} if PLACE.is_dir() else set()


def left_since(before: set[str]) -> set[str]:
    """New names that no living process maps: others may be at work on the same machine."""
    new = {}
    for name in names() - before:
        with suppress(FileNotFoundError):
            new[name] = str((PLACE / name).stat().st_ino)
    mapped = set()
    for maps in Path("/proc").glob("[0-9]*/maps") if new else ():
        with suppress(OSError):  # it has ended meanwhile, or is another user's
            lines = [line.split() for line in maps.read_text(errors="replace").splitlines()]
            # By number: semaphores are mapped under another name than they end up with.
            mapped |= {line[4] for line in lines if str(PLACE) in " ".join(line[5:])}
    return {name for name, number in new.items() if number not in mapped} & names()
