"""The tokenizer in a store: which files it is, and what its special tokens are."""

from pathlib import Path

from lxmert_dist.errors import DataError

TOKENIZER_FILES = (
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
)
"""What belongs to a WordPiece tokenizer; other files of its directory (weights) stay out."""

MAX_VOCAB = 1 << 16
"""Token ids are stored as uint16."""


def tokenizer_files(directory: Path) -> dict[str, bytes]:
    """The tokenizer's files by name, byte for byte.

    Raises:
        DataError: the directory holds none of them.
    """
    found = {
        name: (directory / name).read_bytes()
        for name in TOKENIZER_FILES
        if (directory / name).is_file()
    }
    if not found:
        raise DataError(
            f"no tokenizer in {directory}; give a directory with {' or '.join(TOKENIZER_FILES[:2])}"
        )
    return found


def describe_tokenizer(directory: Path) -> dict[str, int]:
    """``vocab_size`` and the ids of the five special tokens, by their names in the manifest.

    Raises:
        DataError: there is no tokenizer, it cannot be loaded, lacks a special token, or has more
            tokens than fit the store.
    """
    tokenizer_files(directory)  # else a directory that is absent is looked for on the network
    from transformers import AutoTokenizer  # slow to import, and readers never need it

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot load the tokenizer in {directory} ({error}); fetch it again, or give another"
        ) from error
    ids = {
        f"{name}_id": getattr(tokenizer, f"{name}_token_id")
        for name in ("pad", "cls", "sep", "mask", "unk")
    }
    absent = [name for name, token_id in ids.items() if token_id is None]
    if absent:
        raise DataError(
            f"the tokenizer in {directory} has no {', '.join(absent)}; use a BERT-style one"
        )
    if len(tokenizer) > MAX_VOCAB:
        raise DataError(
            f"the tokenizer in {directory} has {len(tokenizer)} tokens, a store holds {MAX_VOCAB}; "
            "use a smaller one"
        )
    return {"vocab_size": len(tokenizer), **ids}
