"""What a user sees of mistakes: one or two lines that name the thing, and the right exit code."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from lxmert_dist.cli import finetune, prepare
from lxmert_dist.cli import pretrain as pretraining
from lxmert_dist.train.checkpoint import Checkpoints, find
from runs import SMALL, pretrain, run
from tiny_store import make_tiny_store


@pytest.fixture
def copy(tiny_store, tmp_path):
    """A store that may be damaged."""
    return Path(shutil.copytree(tiny_store, tmp_path / "store"))


@pytest.fixture
def attempt(tmp_path, capsys, monkeypatch):
    """Runs a command that must fail; returns its exit code and its message."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")

    def attempt(store, *settings, main=pretraining.main, small=SMALL):
        line = [*small, f"directory={tmp_path / 'run'}", f"data.store={store}", *settings]
        arguments = [word for setting in line for word in ("--set", setting)]
        code = main(arguments)
        shown = capsys.readouterr().err
        message = shown[shown.index("error: ") :].strip()
        assert "Traceback" not in shown
        assert len(message.splitlines()) <= 2
        return code, message

    return attempt


def test_a_missing_store_tells_how_to_prepare_one(attempt, tmp_path):
    code, message = attempt(tmp_path / "nothing")
    assert code == 1
    assert f"no feature store at {tmp_path}/nothing" in message
    assert "launch/prepare.py" in message


def test_a_half_written_store_is_named(attempt, copy):
    (copy / "manifest.json").unlink()
    code, message = attempt(copy)
    assert code == 1
    assert "half-written" in message


def test_another_schema_version_is_named(attempt, copy):
    pointer = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**pointer, "schema_version": 99}))
    code, message = attempt(copy)
    assert code == 1
    assert "99" in message


@pytest.mark.parametrize(
    "damage", ["flip", *(pytest.param(how, marks=pytest.mark.slow) for how in ("cut", "remove"))]
)
@pytest.mark.distributed
def test_a_bad_chunk_stops_the_run_and_is_named(copy, tmp_path, damage):
    chunk = copy / "train" / "roi_features" / "c" / "3" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    match damage:
        case "flip":
            chunk.write_bytes(data)
        case "cut":
            chunk.write_bytes(data[:200])
        case _:
            chunk.unlink()
    line = [*SMALL, f"directory={tmp_path / 'run'}", f"data.store={copy}"]
    done = run("pretrain.py", line)
    assert done.code == 1
    assert "train/roi_features/c/3/0/0" in done.output
    assert "Traceback" not in done.output


@pytest.mark.s3
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "check AWS_ACCESS_KEY_ID"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "cannot reach"),
    ],
)
def test_wrong_credentials_and_a_dead_endpoint_are_named(
    attempt, s3, monkeypatch, name, value, message
):
    monkeypatch.setenv(name, value)
    code, said = attempt(s3.uri("nothing"))
    assert code == 1
    assert message in said
    assert s3.uri("nothing") in said


@pytest.mark.s3
def test_a_wrong_bucket_is_named(attempt, s3):
    code, message = attempt("s3://no-such-bucket/x")
    assert code == 1
    assert "no-such-bucket" in message


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.gobal_batch_size=1", "did you mean train.global_batch_size?"),
        ("train.epochs=x", "train.epochs"),
        ("train.zero_stage=7", "train.zero_stage"),
        ("train.global_batch_size=30", "data.lanes=4 must divide train.global_batch_size=30"),
        ("train.micro_batch_size=12", "train.micro_batch_size=12 does not divide the 32 pairs"),
        ("train.global_batch_size=40000", "more than the"),
        ('data.sources=["poems"]', "poems"),
        ("data.train_split=all", "all"),
    ],
)
def test_settings_that_cannot_be_right_are_usage_errors(attempt, tiny_store, setting, message):
    code, said = attempt(tiny_store, setting)
    assert code == (1 if "split" in setting else 2)
    assert message in said


def test_a_named_launcher_that_did_not_start_us_is_a_usage_error(tiny_store, capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    line = ["--launcher", "torchrun", "--set", f"data.store={tiny_store}"]
    assert pretraining.main(line) == 2
    assert "RANK" in capsys.readouterr().err


def test_unknown_arguments_are_usage_errors(capsys):
    with pytest.raises(SystemExit) as ended:
        prepare.main(["easy-vqa"])
    assert ended.value.code == 2
    assert "--out" in capsys.readouterr().err


def test_fine_tuning_from_nothing_is_named(attempt, tiny_store, tmp_path):
    small = [s for s in SMALL if not s.startswith("objectives")]
    init = f"init={tmp_path / 'nowhere'}"
    code, message = attempt(tiny_store, init, "data.sources=[]", main=finetune.main, small=small)
    assert code == 1
    assert "no complete checkpoint" in message
    assert "init=scratch" in message


def test_checkpoints_of_other_models_and_stores_are_refused(attempt, tiny_store, tmp_path):
    ended = tmp_path / "pretrained"
    pretrain(ended, tiny_store, "train.max_steps=4")
    common = {"main": finetune.main}
    code, message = attempt(
        tiny_store, f"init={ended}", "data.sources=[]", "model.hidden_size=64", **common
    )
    assert code == 1
    assert "(105, 32)" in message or "is (" in message

    wide = tmp_path / "wide"
    make_tiny_store(str(wide), feature_dim=24, images=60)
    code, message = attempt(wide, f"init={ended}", "data.sources=[]", **common)
    assert code == 1
    assert "feature_dim=16, but the store has 24" in message

    found = find(str(ended))
    foreign = Checkpoints(str(tmp_path / "foreign"))
    state = dataclasses.replace(found.state(), tokenizer_digest="of another vocabulary")
    foreign.save(state, {"weights": found.tensors("weights")})
    code, message = attempt(tiny_store, f"init={tmp_path / 'foreign'}", "data.sources=[]", **common)
    assert code == 1
    assert "other word pieces" in message

    other = tmp_path / "other"
    make_tiny_store(str(other), seed=5)
    code, message = attempt(other, "train.max_steps=4", f"directory={ended}")
    assert code == 1
    assert "was trained on store" in message


def test_a_damaged_checkpoint_is_named(attempt, tiny_store, tmp_path):
    pretrain(tmp_path, tiny_store, "train.max_steps=4")
    weights = tmp_path / "checkpoints" / "step-00000004" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    code, message = attempt(tiny_store, "train.max_steps=4", f"directory={tmp_path}")
    assert code == 1
    assert "step-00000004/weights.safetensors is damaged" in message


@pytest.mark.parametrize("main", [pretraining.main, finetune.main, prepare.main])
def test_help_is_complete(main, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_the_settings_are_shown_on_demand(capsys):
    assert pretraining.main(["--print-config"]) == 0
    assert "global_batch_size" in capsys.readouterr().out
    assert pretraining.main(["--print-config", "deepspeed"]) == 0
    assert json.loads(capsys.readouterr().out)["zero_optimization"]["stage"] == 0
