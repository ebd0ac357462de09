"""WordPiece tokenizers: trained on a corpus, or loaded by name or from a directory."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lxmert_dist.errors import DataError
from lxmert_dist.store.tokenizer import tokenizer_files

_SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_PREFIX = "##"
"""Of the pieces that continue a word."""


def save_tokenizer(directory: Path, name: str, corpus: Iterable[str], vocab_size: int) -> None:
    """Save the tokenizer of a name, or, without one, what :func:`train_wordpiece` makes.

    Args:
        directory: where the files go.
        name: directory or hub name; empty trains one.
        corpus: sentences to train on; not read where there is a name.
        vocab_size: as there.

    Raises:
        DataError: the tokenizer cannot be read, or the corpus does not do.
    """
    if name:
        keep_tokenizer(directory, name)
    else:
        train_wordpiece(corpus, directory, vocab_size)


def keep_tokenizer(directory: Path, name: str) -> None:
    """Save the tokenizer of a name; files of a directory stay as they are, byte for byte.

    So a store with the tokenizer of another, ``--tokenizer STORE/tokenizer``, fits the weights that
    were trained on that one.

    Args:
        directory: where the files go.
        name: directory or hub name.

    Raises:
        DataError: the tokenizer cannot be read.
    """
    tokenizer = load_tokenizer(name)
    if not (Path(name) / "tokenizer.json").is_file():
        tokenizer.save_pretrained(str(directory))
        return
    directory.mkdir(parents=True, exist_ok=True)
    for file, content in tokenizer_files(Path(name)).items():
        (directory / file).write_bytes(content)


def train_wordpiece(corpus: Iterable[str], directory: Path, vocab_size: int) -> None:
    """Train an uncased, BERT-style tokenizer and save it for ``AutoTokenizer``.

    Pieces are merged by frequency, equals in alphabetical order, so the same corpus always gives
    the same files (the trainer of ``tokenizers`` does not promise that: its pieces depend on
    the order of a randomised hash table).

    Args:
        corpus: sentences.
        directory: where the files go; created if need be.
        vocab_size: the most entries of the vocabulary, special tokens included; a small corpus
            fills fewer.

    Raises:
        DataError: the corpus has no words, or more different characters than ``vocab_size``.
    """
    normalizer, pre_tokenizer = _normalizer(), pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for sentence, copies in Counter(corpus).items():
        for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(sentence)):
            words[word] += copies
    if not words:
        raise DataError("the corpus to train a tokenizer on has no words; give it sentences")
    pieces = [*_SPECIAL_TOKENS.values(), *_learn_pieces(words, vocab_size - len(_SPECIAL_TOKENS))]
    directory.mkdir(parents=True, exist_ok=True)
    _from_pieces(pieces).save_pretrained(str(directory))
    (directory / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), "utf-8")


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a local directory or by its name on the Hugging Face hub.

    Args:
        name: a directory that ``AutoTokenizer`` understands, or that holds an uncased BERT
            vocabulary (``vocab.txt``) alone; or a name such as ``bert-base-uncased``.

    Raises:
        DataError: there is none, the hub is out of reach, or it lacks a special token.
    """
    directory = Path(name)
    vocabulary = directory / "vocab.txt"
    try:
        if vocabulary.is_file() and not list(directory.glob("*.json")):
            # AutoTokenizer finds nothing here, and BertTokenizerFast silently skips the file.
            tokenizer = _from_pieces(vocabulary.read_text("utf-8").splitlines())
        else:
            tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # a damaged tokenizer.json raises a bare Exception
        where = "in this directory" if directory.is_dir() else "here nor on the hub (or no network)"
        raise DataError(
            f"tokenizer {name!r}: none found {where}; give a directory with tokenizer.json and "
            f"tokenizer_config.json, or with vocab.txt ({str(error).splitlines()[0]})"
        ) from error
    known = tokenizer.get_vocab()
    lacking = [key for key in _SPECIAL_TOKENS if getattr(tokenizer, key, None) not in known]
    if lacking:
        raise DataError(f"tokenizer {name!r} has no {', '.join(lacking)}; use a BERT-style one")
    return tokenizer


def fast_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """What cuts sentences into word pieces, and neither shortens nor pads them.

    Raises:
        DataError: it is of Python alone.
    """
    if not tokenizer.is_fast:
        name = tokenizer.name_or_path
        raise DataError(f"the tokenizer {name} has no tokenizer.json; use one that has")
    fast: Tokenizer = tokenizer.backend_tokenizer
    fast.no_truncation()
    fast.no_padding()
    return fast


def _normalizer() -> normalizers.Normalizer:
    return normalizers.BertNormalizer(lowercase=True)


def _from_pieces(pieces: list[str]) -> PreTrainedTokenizerBase:
    """The uncased BERT tokenizer of a vocabulary, given in the order of its ids."""
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    lacking = [token for token in _SPECIAL_TOKENS.values() if token not in vocabulary]
    if lacking:
        raise ValueError(f"the vocabulary lacks {', '.join(lacking)}")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=_PREFIX)
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL_TOKENS)


def _learn_pieces(words: Counter[str], limit: int) -> list[str]:
    """The alphabet, then merged pieces in the order of their merging; at most ``limit``."""
    split = [[word[0], *(_PREFIX + letter for letter in word[1:])] for word in sorted(words)]
    copies = [words[word] for word in sorted(words)]
    pieces = dict.fromkeys(sorted({piece for word in split for piece in word}))
    if len(pieces) > limit:
        raise DataError(
            f"vocab_size must be at least {len(pieces) + len(_SPECIAL_TOKENS)} for this corpus: "
            "its characters and the special tokens alone are that many"
        )
    counts: Counter[tuple[str, str]] = Counter()
    where: defaultdict[tuple[str, str], set[int]] = defaultdict(set)

    def count_pairs(index: int, times: int) -> None:
        for pair in pairwise(split[index]):
            counts[pair] += times
            where[pair].add(index)

    for index, times in enumerate(copies):
        count_pairs(index, times)
    while len(pieces) < limit:
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 1:
            break
        for index in where.pop(best):
            count_pairs(index, -copies[index])
            split[index] = _merge(split[index], best)
            count_pairs(index, copies[index])
        del counts[best]
        pieces[best[0] + best[1].removeprefix(_PREFIX)] = None
    return list(pieces)


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece.removeprefix(_PREFIX)
        else:
            merged.append(piece)
    return merged
