"""The tokenizer that goes with weights: found, checked, and written where each program looks."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lxmert_dist.errors import DataError, StoreError
from lxmert_dist.store import open_store
from lxmert_dist.store.tokenizer import tokenizer_files
from lxmert_dist.tasks.weights import Description, vocabulary_digest, word_pieces

_ONE_OF = ("vocab.txt", "tokenizer.json")


@dataclass(frozen=True)
class FoundTokenizer:
    """A tokenizer's files by name."""

    origin: str
    files: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """Over its word pieces."""
        return vocabulary_digest(self.files)


def in_directory(directory: Path) -> FoundTokenizer | None:
    """The tokenizer in a directory, or None; a ``config.json`` is the model's and stays out."""
    if not any((directory / name).is_file() for name in _ONE_OF):
        return None
    files = tokenizer_files(directory)
    files.pop("config.json", None)
    return FoundTokenizer(str(directory), files)


def named(directory: Path) -> FoundTokenizer:
    """The tokenizer that a user names.

    Raises:
        DataError: there is none.
    """
    found = in_directory(directory)
    if found is None:
        raise DataError(
            f"no tokenizer in {directory}; give a directory with {' or '.join(_ONE_OF)}"
        )
    return found


def of_store(uri: str, digest: str) -> FoundTokenizer | None:
    """The tokenizer of a run's store, where that is in reach and still has it."""
    try:
        store = open_store(uri)
        if store.tokenizer.digest != digest:
            return None
        found = in_directory(store.tokenizer_dir())
    except StoreError:
        return None
    return found and FoundTokenizer(uri, found.files)


def check_fits(tokenizer: FoundTokenizer, description: Description) -> None:
    """Whether weights can be of this tokenizer; the word embedding may have spare rows.

    Raises:
        DataError: it has more word pieces, cannot be read, or is not the one that they know.
    """
    try:
        count = len(word_pieces(tokenizer.files))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the tokenizer in {tokenizer.origin} is damaged ({error}); fetch it again"
        ) from error
    rows = description.sizes["vocab_size"]
    if count > rows:
        raise DataError(
            f"the tokenizer in {tokenizer.origin} has {count} word pieces, the weights have "
            f"{rows}; give the one that they were trained with"
        )
    if description.vocabulary_digest not in ("", tokenizer.digest):
        raise DataError(
            f"the tokenizer in {tokenizer.origin} has other word pieces than these weights were "
            "trained on; leave --tokenizer out"
        )


def write(tokenizer: FoundTokenizer, folder: Path, *, complete: bool = False) -> None:
    """Write its files, byte for byte.

    Args:
        tokenizer: found before.
        folder: exists.
        complete: also a ``tokenizer.json``, which ``AutoTokenizer`` wants, where there is none.

    Raises:
        DataError: that cannot be made from the files.
    """
    for name, data in tokenizer.files.items():
        (folder / name).write_bytes(data)
    if complete and "tokenizer.json" not in tokenizer.files:
        opened(tokenizer).save_pretrained(str(folder))


def opened(tokenizer: FoundTokenizer) -> Any:
    """The tokenizer of transformers, as the ingest opens it.

    Raises:
        DataError: its files are no tokenizer, or it lacks a special token.
    """
    from lxmert_dist.ingest.tokenizer import load_tokenizer  # brings transformers with it

    with tempfile.TemporaryDirectory() as folder:
        write(tokenizer, Path(folder))
        try:
            return load_tokenizer(folder)
        except DataError as error:
            raise DataError(str(error).replace(folder, tokenizer.origin)) from error
