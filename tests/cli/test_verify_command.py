"""``launch/verify.py``: every fault is named, mended from a copy, and nothing else is touched."""

import shutil
from pathlib import Path

import pytest

from lxmert_dist.cli import verify
from lxmert_dist.store import open_store, verification
from lxmert_dist.store import uri as uris
from tiny_store import make_tiny_store

SHARD, TABLE, LABELS = "train/roi_features/c/2/0/0", "valid/sentences.arrow", "vocabularies"


@pytest.fixture
def copy(tiny_store, tmp_path):
    """A store that may be damaged."""
    return Path(shutil.copytree(tiny_store, tmp_path / "store"))


@pytest.fixture
def command(capsys, monkeypatch):
    """Runs the command without pauses; returns its exit code, its lines and its error."""
    monkeypatch.setattr(uris._jitter, "uniform", lambda low, high: low)

    def command(*line):
        code = verify.main([str(word) for word in line])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out.splitlines(), said.err

    return command


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def contents(place: Path) -> dict[str, bytes]:
    return {
        f.relative_to(place).as_posix(): f.read_bytes() for f in place.rglob("*") if f.is_file()
    }


def lines_of(said: list[str], word: str) -> list[str]:
    return [line.removeprefix(word).strip() for line in said if line.startswith(word)]


@pytest.mark.parametrize("options", [(), ("--fast",), ("--threads", 1)])
def test_a_sound_store_passes(tiny_store, command, options):
    code, said, error = command(tiny_store, *options)
    entries = list(open_store(tiny_store).manifest.all_objects())
    assert (code, error) == (0, "")
    (last,) = said
    assert last.startswith(f"checked   {len(entries)} objects, ")
    assert "0 bad, 0 unnamed" in last


def test_each_fault_is_named_with_what_is_wrong(copy, command):
    flip(copy / SHARD)
    cut(copy / TABLE)
    (copy / "zarr.json").unlink()
    (copy / "train" / "roi_features" / "c" / "99").write_bytes(b"left over")
    code, said, error = command(copy)
    assert code == 1
    size = (copy / TABLE).stat().st_size
    assert sorted(lines_of(said, "bad ")) == [
        f"{SHARD} is damaged: its checksum does not match",
        f"{TABLE} has {size} bytes, the manifest says {size + 1}",
        "zarr.json is missing",
    ]
    assert lines_of(said, "unnamed ") == ["train/roi_features/c/99 is named by no manifest"]
    assert "3 of" in error
    assert "--repair-from" in error


@pytest.mark.parametrize("at", [0, 1000, -1])
def test_any_bit_of_a_chunk_counts(copy, command, at):
    """The trailing checksum too: -1 is its last byte."""
    data = bytearray((copy / SHARD).read_bytes())
    data[at] ^= 128
    (copy / SHARD).write_bytes(data)
    code, said, _ = command(copy)
    assert code == 1
    assert lines_of(said, "bad ") == [f"{SHARD} is damaged: its checksum does not match"]


def test_one_sound_chunk_in_the_place_of_another_is_found(copy, command):
    shutil.copyfile(copy / "train/roi_features/c/1/0/0", copy / SHARD)
    assert command(copy)[0] == 1
    assert command(copy, "--fast")[0] == 0, "lengths say nothing of it"


def test_damaged_vocabularies_are_findings_like_others(copy, command):
    """They are read when a store is opened, which must not end the check."""
    flip(copy / LABELS / "answers.json")
    (copy / LABELS / "objects.json").write_bytes(b"")
    code, said, _ = command(copy)
    assert code == 1
    assert len(lines_of(said, "bad ")) == 2


def test_lengths_alone_need_no_reading(copy, command, monkeypatch):
    flip(copy / SHARD)
    cut(copy / TABLE)
    (copy / "test" / "zarr.json").unlink()

    def refuse(*_):
        raise AssertionError("an object was read")

    monkeypatch.setattr(verification, "problem_of", refuse)
    code, said, _ = command(copy, "--fast")
    assert code == 1
    found = lines_of(said, "bad ")
    assert [key.split()[0] for key in found] == ["test/zarr.json", TABLE]


def test_objects_of_an_older_manifest_are_named(copy, command, tmp_path):
    make_tiny_store(str(tmp_path / "other"), images=20, seed=8)
    other = tmp_path / "other"
    (manifest,) = (other / "manifests").iterdir()
    shutil.copyfile(manifest, copy / "manifests" / manifest.name)
    assert command(copy)[0] == 0
    cut(copy / "manifests" / manifest.name)
    code, said, error = command(copy)
    assert code == 1
    assert lines_of(said, "unnamed ") == [f"manifests/{manifest.name} is named by no manifest"]
    assert "no manifest names (1)" in error


@pytest.mark.parametrize("options", [(), ("--fast",)])
def test_repair_brings_every_byte_back(tiny_store, copy, command, options):
    cut(copy / SHARD)
    cut(copy / LABELS / "answers.json")
    shutil.rmtree(copy / "test")
    code, said, error = command(copy, "--repair-from", tiny_store, *options)
    assert (code, error) == (0, "")
    repaired = lines_of(said, "repaired ")
    assert len(repaired) == len(lines_of(said, "bad ")) > 10
    assert {SHARD, f"{LABELS}/answers.json", "test/zarr.json"} <= set(repaired)
    assert contents(copy) == contents(Path(tiny_store))
    assert command(copy)[0] == 0


def test_repair_touches_nothing_that_is_sound(tiny_store, copy, command):
    flip(copy / SHARD)
    before = {f: f.stat().st_mtime_ns for f in copy.rglob("*") if f.is_file()}
    assert command(copy, "--repair-from", tiny_store)[0] == 0
    changed = [f for f, when in before.items() if f.stat().st_mtime_ns != when]
    assert changed == [copy / SHARD]


@pytest.mark.parametrize("lose", [("pointer",), ("manifest",), ("pointer", "manifest's bytes")])
def test_pointer_and_manifest_come_back_too(tiny_store, copy, command, lose):
    (manifest,) = (copy / "manifests").iterdir()
    for what in lose:
        match what:
            case "pointer":
                (copy / "manifest.json").write_text("{")
            case "manifest":
                manifest.unlink()
            case _:
                cut(manifest)
    cut(copy / SHARD)
    assert command(copy)[0] == 1
    code, said, _ = command(copy, "--repair-from", tiny_store)
    assert code == 0
    assert len(lines_of(said, "repaired ")) == len(lose) + 1
    assert contents(copy) == contents(Path(tiny_store))


@pytest.mark.parametrize("lost", [(), ("manifest.json",), ("manifest.json", "manifests")])
def test_another_store_is_refused(copy, command, tmp_path, lost):
    other = tmp_path / "other"
    make_tiny_store(str(other), seed=1)
    cut(copy / SHARD)
    for name in lost:
        uris.delete_tree(str(copy / name))
    before = contents(copy)
    code, said, error = command(copy, "--repair-from", other)
    assert code == 1
    assert said == []
    assert "another store" in error
    assert "nothing was copied" in error
    assert contents(copy) == before


def test_a_copy_that_is_no_better_is_named(tiny_store, copy, command, tmp_path):
    worse = Path(shutil.copytree(tiny_store, tmp_path / "worse"))
    cut(copy / SHARD)
    cut(copy / TABLE)
    (copy / "manifest.json").unlink()
    flip(worse / SHARD)
    code, said, error = command(copy, "--repair-from", worse)
    assert code == 1
    assert lines_of(said, "repaired ") == [TABLE]
    assert f"{SHARD}: the copy is no better: {SHARD} is damaged" in lines_of(said, "bad ")[-1]
    assert "1 of 2 objects could not be repaired" in error
    assert not (copy / "manifest.json").exists(), "the pointer comes last"


def test_what_was_copied_is_read_again(tiny_store, copy, command, monkeypatch):
    cut(copy / SHARD)
    cut(copy / TABLE)
    whole = uris.upload

    def upload(source, uri):
        whole(source, uri)
        if uri.endswith(SHARD):
            flip(Path(uri))

    monkeypatch.setattr(uris, "upload", upload)
    code, said, error = command(copy, "--repair-from", tiny_store)
    assert code == 1
    assert lines_of(said, "repaired ") == [TABLE]
    assert "1 of 2 objects could not be repaired" in error


@pytest.mark.parametrize(
    ("line", "message"),
    [(["--threads", "0"], "--threads"), (["--repair-from", "nowhere/at/all"], "nowhere/at/all")],
)
def test_wrong_usage_is_named(tiny_store, command, line, message):
    code, _, error = command(tiny_store, *line)
    assert code == (2 if "threads" in message else 1)
    assert message in error


def test_a_place_that_cannot_be_listed_is_checked_all_the_same(copy, command, monkeypatch):
    def refuse(uri):
        raise uris.DeniedError("access denied")

    monkeypatch.setattr(uris, "list_tree", refuse)
    flip(copy / SHARD)
    code, said, _ = command(copy)
    assert code == 1
    assert len(lines_of(said, "bad ")) == 1
    assert "were not looked for: access denied" in said[0]
    assert command(copy, "--fast")[1] == []


def test_an_endpoint_that_is_gone_ends_the_check(copy, command, monkeypatch):
    def gone(uri, entry, look):
        raise uris.UnreachableError("cannot reach it: reset")

    monkeypatch.setattr(verification, "problem_of", gone)
    code, said, error = command(copy)
    assert (code, said) == (1, [])
    assert "cannot reach it" in error


@pytest.mark.s3
def test_stores_on_s3_are_checked_and_mended(tiny_store, s3, tmp_path, command, monkeypatch):
    monkeypatch.setattr("lxmert_dist.store.access.HELD_BYTES", 2000)
    remote, other = s3.uri(f"{tmp_path.name}/store"), tmp_path / "local"
    make_tiny_store(remote, images=60)
    make_tiny_store(str(other), images=60)
    assert command(remote)[0] == command(remote, "--fast")[0] == 0
    data = bytearray(uris.read_bytes(uris.join(remote, SHARD)))
    data[77] ^= 1
    uris.write_bytes(uris.join(remote, SHARD), bytes(data))
    table = uris.read_bytes(uris.join(remote, TABLE))
    assert len(table) > 2000 > len(uris.read_bytes(uris.join(remote, "zarr.json")))
    uris.write_bytes(uris.join(remote, TABLE), table[:-1])
    uris.delete_tree(uris.join(remote, "test/zarr.json"))
    uris.write_bytes(uris.join(remote, "train/extra"), b"x")

    code, said, _ = command(remote)
    assert code == 1
    bad = {line.split()[0] for line in lines_of(said, "bad ")}
    assert bad == {SHARD, TABLE, "test/zarr.json"}
    assert lines_of(said, "unnamed ") == ["train/extra is named by no manifest"]
    code, said, _ = command(remote, "--fast")
    assert {line.split()[0] for line in lines_of(said, "bad ")} == bad - {SHARD}

    uris.delete_tree(uris.join(remote, "train/extra"))
    code, said, _ = command(remote, "--repair-from", other)
    assert code == 0
    assert set(lines_of(said, "repaired ")) == bad
    cut(other / SHARD)
    assert command(other, "--repair-from", remote)[0] == 0
    assert command(other)[0] == command(remote)[0] == 0
