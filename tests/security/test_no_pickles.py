"""No command unpickles anything: neither its files nor what ranks tell each other."""

import os
import pickle
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from lxmert_dist.cli import convert, finetune, plan, prepare, pretrain, verify
from lxmert_dist.train.checkpoint import find
from ranks import called
from runs import SMALL
from runs import pretrain as train_here

pytestmark = pytest.mark.distributed
MAINS = {
    module.__name__.rpartition(".")[2]: module.main
    for module in (convert, finetune, plan, prepare, pretrain, verify)
}


def watched(
    rank: int, size: int, record: str, commands: Sequence[tuple[str, Sequence[str]]]
) -> None:
    """Run commands with a hook that notes every class or function that a pickle asks for.

    No code can come out of a pickle otherwise. The hook sees Python's pickle and the one in C,
    whoever calls them.
    """

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "pickle.find_class":
            with Path(record).open("a") as file:
                file.write(f"{arguments}\n{''.join(traceback.format_stack(limit=12))}\n")

    sys.addaudithook(hook)
    pickle.loads(pickle.dumps(Path()))  # the hook works
    for name, arguments in commands:
        code = MAINS[name](list(arguments))
        if code:
            sys.exit(f"{name} ended with {code}")


def unpickled(record: Path, processes: int) -> str:
    """What the hook noted, apart from the one pickle of each process that shows that it works."""
    notes = [note for note in record.read_text().split("\n\n") if note]
    proofs = [note for note in notes if note.startswith("('pathlib'")]
    assert len(proofs) == processes
    return "\n\n".join(note for note in notes if note not in proofs)


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.mark.slow
def test_two_ranks_of_each_stage_unpickle_nothing(tiny_store, tmp_path):
    record = tmp_path / "record"
    for stage in (1, 2, 3):
        settings = [*SMALL, f"directory={tmp_path / str(stage)}", f"data.store={tiny_store}"]
        settings += ["train.max_steps=2", "checkpoint.every=1", f"train.zero_stage={stage}"]
        with called(watched, 2, str(record), [("pretrain", words(*settings))]) as ranks:
            assert ranks.wait() == [0, 0], ranks.output
        assert not unpickled(record, 2)
        record.unlink()


def test_no_command_unpickles(tiny_store, tmp_path):
    record, run = tmp_path / "record", tmp_path / "run"
    small = [*SMALL, "checkpoint.every=1", f"data.store={tiny_store}"]
    pretraining = [*small, f"directory={run}", "train.max_steps=2"]
    tuning = [
        *small,
        f"directory={tmp_path / 'tuned'}",
        f"init={run}",
        'data.sources=["questions"]',
    ]
    made = str(tmp_path / "made")
    export = ["--from", str(run), "--out", str(tmp_path / "export")]
    sizes = ["--images", "64", "--boxes", "2", "--feature-dim", "8", "--processes", "1"]
    commands = [
        ("pretrain", words(*pretraining)),
        ("pretrain", words(*pretraining)),  # which finds that all is done
        ("finetune", words(*tuning, "train.max_steps=1")),
        ("convert", [*export, "--to", "huggingface"]),
        ("prepare", ["synthetic", *sizes, "--out", made]),
        ("verify", [made]),
        ("plan", [made, "--batch", "8", "--lanes", "2", "--window", "2"]),
    ]
    with called(watched, 1, str(record), commands) as ranks:
        assert ranks.wait(240) == [0], ranks.output
    assert not unpickled(record, 1)


class Evil:
    """Runs code where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def finished(tiny_store, tmp_path_factory):
    """Directory of a run of two steps."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    train_here(directory, tiny_store, "train.max_steps=2")
    return directory


def poison(file: Path, mark: Path, form: str) -> None:
    """Put a pickle with code in the place of a file."""
    if form == "pickle":
        file.write_bytes(pickle.dumps(Evil(mark)))
    else:
        torch.save({"weights": Evil(mark)}, file)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("weights.safetensors", "pickle"),
        ("exp_avg.safetensors", "torch.save"),
        ("state.json", "pickle"),
        ("manifest.json", "pickle"),
    ],
)
def test_a_checkpoint_with_code_is_refused(finished, tiny_store, tmp_path, capfd, name, form):
    run, mark = tmp_path / "run", tmp_path / "it ran"
    shutil.copytree(finished, run)
    checkpoint = Path(find(str(run)).uri)
    poison(checkpoint / name, mark, form)
    settings = [*SMALL, f"directory={run}", f"data.store={tiny_store}", "train.max_steps=2"]
    code = pretrain.main(words(*settings))
    said = capfd.readouterr().err
    assert code == 1, said
    assert "Traceback" not in said
    assert str(checkpoint) in said
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "form", "code"),
    [
        ("manifest.json", "pickle", 1),
        ("train/roi_features/c/0/0/0", "torch.save", 1),
        ("train/roi_features/zarr.json", "pickle", 0),  # for others: the manifest says all of it
        ("train/boxes/c/0/0/0", "pickle", 1),
        ("train/sentences.arrow", "torch.save", 1),
    ],
)
def test_a_store_with_code_is_refused(tiny_store, tmp_path, capfd, name, form, code):
    store, mark = tmp_path / "store", tmp_path / "it ran"
    shutil.copytree(tiny_store, store)
    assert (store / name).is_file()
    poison(store / name, mark, form)
    verified = verify.main([str(store)])
    settings = [*SMALL, f"directory={tmp_path / 'run'}", f"data.store={store}"]
    trained = pretrain.main(words(*settings, "train.max_steps=2"))
    said = "".join(capfd.readouterr())
    assert (verified, trained) == (1, code), said
    assert "Traceback" not in said
    assert str(store) in said
    assert not mark.exists()
