"""The errors that a user can cause and mend: each message names the thing and says what to do.

``exit_code`` is what a command returns: 2 for wrong usage, 1 for a failure, 75 for a run that a
scheduler ended and should start again.
"""

CORRECT = "correct it, or fetch the file again"
"""What to do about an entry of a file of data that is not as it should be."""
TOGETHER = "name files that belong together"
"""What to do about two files that contradict each other."""


def unreadable(place: object, error: OSError) -> str:
    """The message for a file that the system does not let us read."""
    return (
        f"{place}: cannot be read ({error.strerror}); check the path, its permissions and the disk"
    )


def unwritable(place: object, error: OSError) -> str:
    """The message for a file that the system does not let us write."""
    return (
        f"{place}: cannot be written ({error.strerror}); choose another place, or free some space"
    )


def came_before(where: str, what: str) -> str:
    """The message for an entry, such as "question 7", whose name another of its file has."""
    return f"{where}: {what} came before in this file; leave one out"


def holds_no(place: object, what: str) -> str:
    """The message for a file without any of what it is read for, such as "questions"."""
    return f"{place}: holds no {what}; name a file that does"


class LxmertError(Exception):
    """Root of the errors that are shown as one or two lines, without a traceback."""

    exit_code = 1


class ConfigError(LxmertError):
    """A setting is unknown, of the wrong type, out of range, or does not fit another."""

    exit_code = 2


class DataError(LxmertError):
    """An input file is missing, unreadable or inconsistent."""


class StoreError(LxmertError):
    """A feature store is missing, unfinished, of another version, or out of reach."""


class CorruptObjectError(StoreError):
    """An object of a store does not match its manifest: length, checksum or absence."""


class CheckpointError(LxmertError):
    """A checkpoint is missing, damaged, or belongs to another model or store."""


class DamagedCheckpointError(CheckpointError):
    """A file of a checkpoint is missing or is not what its manifest says."""


class NonFiniteLossError(LxmertError):
    """A loss became NaN or infinite; raised before the optimiser moves."""


class ClusterError(LxmertError):
    """The cluster that was asked for is out of reach or lost a worker for good."""


class RankError(LxmertError):
    """Another rank ended by an error that a user has to mend first; these are its words."""


class WorkerError(LxmertError):
    """A process that did a part of the work was killed."""


class StoppedError(LxmertError):
    """Ctrl-C ended a run at a step boundary; it left a checkpoint to go on from."""

    exit_code = 130


class PreemptedError(StoppedError):
    """SIGTERM did. The code is EX_TEMPFAIL: the same command will go on, so start it again."""

    exit_code = 75
