import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from lxmert_dist.errors import DataError
from lxmert_dist.ingest import load_tokenizer, train_wordpiece
from lxmert_dist.ingest.tokenizer import keep_tokenizer

CORPUS = ["Is there a yellow triangle?", "a yellow circle", "what is the Yellow shape?"] * 3
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def directory(tmp_path):
    train_wordpiece(CORPUS, tmp_path / "tokenizer", 120)
    return tmp_path / "tokenizer"


def test_round_trip_through_auto_tokenizer(directory):
    tokenizer = AutoTokenizer.from_pretrained(str(directory))
    ids = tokenizer("Is there a YELLOW shape?")["input_ids"]
    assert [ids[0], ids[-1]] == [tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "is there a yellow shape?"
    assert tokenizer.convert_ids_to_tokens(range(5)) == SPECIAL
    assert tokenizer.tokenize("yellow") == ["yellow"]
    assert tokenizer.tokenize("z") == ["[UNK]"]
    assert tokenizer.mask_token_id == 4


def test_vocabulary_file_lists_the_same_pieces(directory):
    pieces = (directory / "vocab.txt").read_text().splitlines()
    assert load_tokenizer(str(directory)).get_vocab() == {p: i for i, p in enumerate(pieces)}


def test_what_is_kept_is_the_same_to_the_byte(directory, tmp_path):
    """Or weights that were trained with it would not fit the other store."""
    keep_tokenizer(tmp_path / "kept", str(directory))
    names = sorted(file.name for file in directory.iterdir())
    assert names == sorted(file.name for file in (tmp_path / "kept").iterdir())
    for name in names:
        assert (tmp_path / "kept" / name).read_bytes() == (directory / name).read_bytes()


def test_a_vocabulary_alone_is_kept_as_a_tokenizer(directory, tmp_path):
    (tmp_path / "alone").mkdir()
    (directory / "vocab.txt").rename(tmp_path / "alone" / "vocab.txt")
    keep_tokenizer(tmp_path / "kept", str(tmp_path / "alone"))
    kept, whole = (load_tokenizer(str(d)) for d in (tmp_path / "kept", directory))
    assert kept.get_vocab() == whole.get_vocab()


def test_pieces_come_in_order_of_frequency(tmp_path):
    train_wordpiece(["ab ab ab cd cd", "ce"], tmp_path, 100)
    pieces = (tmp_path / "vocab.txt").read_text().splitlines()
    assert pieces == [*SPECIAL, "##b", "##d", "##e", "a", "c", "ab", "cd", "ce"]


def test_vocabulary_is_cut_at_its_size(tmp_path):
    train_wordpiece(CORPUS, tmp_path, 40)
    tokenizer = load_tokenizer(str(tmp_path))
    assert len(tokenizer) == 40
    pieces = tokenizer.tokenize("yellow tangle")
    assert len(pieces) > 2
    assert "[UNK]" not in pieces
    assert tokenizer.decode(tokenizer.convert_tokens_to_ids(pieces)) == "yellow tangle"


def test_order_of_corpus_and_hash_seed_change_nothing(tmp_path, directory):
    program = (
        "import sys, pathlib; from lxmert_dist.ingest import train_wordpiece;"
        f"train_wordpiece(reversed({CORPUS!r}), pathlib.Path(sys.argv[1]), 120)"
    )
    again = tmp_path / "again"
    subprocess.run([sys.executable, "-c", program, str(again)], check=True)
    names = sorted(path.name for path in directory.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    for name in names:
        assert (directory / name).read_bytes() == (again / name).read_bytes()


def test_a_bare_vocabulary_is_loaded_whole(tmp_path):
    pieces = [*SPECIAL, "tea", "##l", "red"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    tokenizer = load_tokenizer(str(tmp_path))
    assert len(tokenizer) == len(pieces)
    assert tokenizer.tokenize("Teal red") == ["tea", "##l", "red"]


@pytest.mark.parametrize(
    ("corpus", "size", "message"),
    [([], 100, "no words"), (["  "], 100, "no words"), (CORPUS, 20, "at least")],
)
def test_refuses_what_it_cannot_train_on(tmp_path, corpus, size, message):
    with pytest.raises(DataError, match=message):
        train_wordpiece(corpus, tmp_path, size)


def test_missing_and_damaged_tokenizers_are_named(tmp_path, directory):
    with pytest.raises(DataError, match=str(tmp_path)):
        load_tokenizer(str(tmp_path))
    with pytest.raises(DataError, match="no/such/place"):
        load_tokenizer("no/such/place")
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="tokenizer"):
        load_tokenizer(str(directory))


def test_a_tokenizer_without_special_tokens_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\nred\n")
    with pytest.raises(DataError, match=r"\[SEP\], \[MASK\]"):
        load_tokenizer(str(tmp_path))
