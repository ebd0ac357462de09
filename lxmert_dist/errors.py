"""The errors that a user can cause and mend: each message names the thing and says what to do.

``exit_code`` is what a command returns: 2 for wrong usage, 1 for a failure, 75 for a run that a
scheduler ended and should start again.
"""


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
