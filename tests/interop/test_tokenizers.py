"""The tokenizer beside exported weights says what it said before."""

import pytest
from transformers import AutoTokenizer

from lxmert_dist.errors import DataError
from lxmert_dist.interop import tokenizers
from lxmert_dist.tasks.weights import vocabulary_digest
from tiny_store import make_tokenizer
from tiny_weights import released

SENTENCES = ["Ba de FI", "gola zebra", ""]


@pytest.fixture(params=["tokenizer.json", "vocab.txt"])
def directory(request, tmp_path):
    """A tokenizer with all its files, or only the vocabulary of the first BERTs."""
    folder = make_tokenizer(tmp_path / "tokenizer")
    if request.param == "vocab.txt":
        for file in folder.glob("*.json"):
            file.unlink()
    return folder


@pytest.fixture
def whole(tmp_path):
    return AutoTokenizer.from_pretrained(make_tokenizer(tmp_path / "whole"))


def test_hugging_face_opens_it(pretraining, save, turn, directory, whole):
    out, conversion = turn(save(released(pretraining)), "huggingface", tokenizer=directory)
    opened = AutoTokenizer.from_pretrained(out)
    for sentence in SENTENCES:
        assert opened.tokenize(sentence) == whole.tokenize(sentence)
        assert opened.convert_tokens_to_ids(opened.tokenize(sentence)) == (
            whole.convert_tokens_to_ids(whole.tokenize(sentence))
        )
    assert str(directory) in "\n".join(conversion.lines())


@pytest.mark.parametrize("to", ["lxmert", "lxmert_dist"])
def test_files_stay_as_they_are(pretraining, save, turn, directory, to):
    out, _ = turn(save(released(pretraining)), to, tokenizer=directory)
    for file in (out / "tokenizer").iterdir():
        assert file.read_bytes() == (directory / file.name).read_bytes()


def test_a_digest_does_not_depend_on_the_files(tmp_path):
    files = tokenizers.named(make_tokenizer(tmp_path / "t")).files
    digests = {vocabulary_digest({name: files[name]}) for name in ("vocab.txt", "tokenizer.json")}
    assert len(digests) == 1
    assert vocabulary_digest({}) == ""


def test_tokenizers_that_do_not_fit(pretraining, save, turn, tmp_path):
    file = save(released(pretraining))
    folder = make_tokenizer(tmp_path / "large")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(f"w{i}" for i in range(66)))
    with pytest.raises(DataError, match="has 66 word pieces, the weights have 65"):
        turn(file, "lxmert", tokenizer=folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        turn(file, "lxmert", tokenizer=folder)
    with pytest.raises(DataError, match="no tokenizer in"):
        turn(file, "lxmert", tokenizer=tmp_path)


def test_none_is_told(pretraining, save, turn):
    out, conversion = turn(save(released(pretraining)), "huggingface")
    assert "none is included" in "\n".join(conversion.lines())
    assert "Tokenizer: not included" in (out / "README.md").read_text()
