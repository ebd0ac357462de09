"""Names of classes -> their numbers."""

from collections.abc import Collection, Sequence

from lxmert_dist.errors import ConfigError


def label_numbers(names: Sequence[str], there: Collection[str], setting: str) -> dict[str, int]:
    """The places of ``names``, which are those that the data have.

    Raises:
        ConfigError: a name is not in the data, or one of the data is not named.
    """
    if set(names) != set(there):
        raise ConfigError(
            f"{setting} has {', '.join(sorted(names))}, but the data have "
            f"{', '.join(sorted(there))}; name these"
        )
    return {name: number for number, name in enumerate(names)}
