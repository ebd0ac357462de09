"""From a place to weights, whoever wrote them."""

from lxmert_dist.errors import CheckpointError
from lxmert_dist.interop.source import Guess, Source, of_path, of_run
from lxmert_dist.store.uri import local_path
from lxmert_dist.train.checkpoint import weights_at


def find_source(place: str, guess: Guess) -> Source:
    """A run, checkpoint or export of ours, or else a file or directory of another program.

    Args:
        place: a path; of ours also any fsspec URI.
        guess: what is said of weights that do not say it themselves.

    Raises:
        CheckpointError: there are no weights, or they are damaged, unsafe or of another model.
    """
    path = local_path(place)
    weights = weights_at(place) if path is None or path.is_dir() else None
    if weights is not None:
        return of_run(weights)
    if path is None:
        raise CheckpointError(
            f"no run, checkpoint or export of lxmert_dist at {place}; "
            "weights of other programs must lie on a disk"
        )
    return of_path(path, guess)
