"""A canary in every place where a user may put a secret sings in no output."""

from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lxmert_dist.cli import audit, convert, finetune, plan, prepare, pretrain, verify
from lxmert_dist.tracking import mlflow_tracker
from lxmert_dist.train.checkpoint import Checkpoints
from runs import SMALL, environment, run
from tiny_store import make_tiny_store

CANARY = "c4n4ry/9f+2"
SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "RAY_AUTH_TOKEN",
)
REMOTE = f"s3://me:{CANARY}@bucket/place"
SIGNED = f"s3://bucket!/place?X-Amz-Signature={CANARY}"
DEAD_SERVER = f"http://me:{CANARY}@127.0.0.1:9"


@pytest.fixture(autouse=True)
def canaries(monkeypatch):
    """In the environment; each has a number of its own, which says where it got out from."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    for number, name in enumerate(SECRET_VARIABLES):
        monkeypatch.setenv(name, f"{CANARY}-{number}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")


def sings(data: str | bytes) -> bool:
    """Whether any part of the canary is in it, also as a URL spells it."""
    data = data if isinstance(data, bytes) else data.encode()
    return any(part in data.lower() for part in (b"c4n4ry", b"9f+2", b"9f%2b2"))


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def test_a_run_and_all_its_files_keep_the_secrets(tmp_path, capfd, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setattr(mlflow_tracker, "_CLOSE_SECONDS", 200.0)  # a busy machine is no excuse
    directory = tmp_path / "runs" / "run"
    store, kept = (f"memory://me:{CANARY}@host/{name}" for name in ("store", "kept"))
    make_tiny_store(store)
    settings = [*SMALL, f"directory={directory}", f"data.store={store}", f"checkpoint.uri={kept}"]
    settings += ["train.max_steps=2", "checkpoint.every=1", "tracking.mlflow=true"]
    settings += [f"name=small password={CANARY}"]
    try:
        assert pretrain.main(words(*settings)) == 0
        state = Checkpoints(kept).latest().state()
        checkpoints = [
            entry.getvalue() for name, entry in MemoryFileSystem.store.items() if "/kept/" in name
        ]
        again = pretrain.main(words(*settings, f"tracking.uri={DEAD_SERVER}"))
    finally:
        MemoryFileSystem.store.clear()
    said = "".join(capfd.readouterr())
    assert again == 0, said
    assert "nothing is left to train" in said
    assert "memory://…@host/kept" in said
    assert not sings(said), said
    assert state.config["data"]["store"] == "memory://…@host/store"
    assert len(checkpoints) > 2
    assert not any(map(sings, checkpoints))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert names >= {"mlflow.db", "metrics.jsonl", "ledger.jsonl", "config.toml"}
    assert not [path for path in files if sings(path.read_bytes())]
    text = next(path for path in files if path.name == "config.toml").read_text()
    for setting in ("max_tokens = ", "token_mask_rate = 0.", "name = ", "memory://…@host/store"):
        assert setting in text


@pytest.mark.parametrize("how", ["toml", "deepspeed"])
def test_settings_are_printed_without_secrets(how, capfd):
    line = words(f"data.store={REMOTE}", f"tracking.uri={DEAD_SERVER}", f"checkpoint.uri={SIGNED}")
    assert pretrain.main([*line, "--print-config", how]) == 0
    said = capfd.readouterr().out
    assert not sings(said), said
    shown = ["max_tokens", "s3://…@bucket/place"] if how == "toml" else ["train_micro_batch"]
    for setting in shown:
        assert setting in said


@pytest.mark.parametrize("debug", [[], ["--debug"]], ids=["", "debug"])
@pytest.mark.parametrize(
    ("main", "line"),
    [
        (pretrain.main, words(*SMALL, f"data.store={REMOTE}")),
        (pretrain.main, words(*SMALL, f"init={REMOTE}", "data.store={store}")),
        (pretrain.main, words(*SMALL, f"checkpoint.uri={REMOTE}", "data.store={store}")),
        (pretrain.main, words(f"data.max_tokens={REMOTE}")),
        (pretrain.main, words(f"checkpoint.password={CANARY}")),
        (pretrain.main, ["--set", f"data.store password={CANARY}", "--set", f"x:{CANARY}@y"]),
        (pretrain.main, ["--config", f"{REMOTE}.toml"]),
        (finetune.main, words(*SMALL, f"init={REMOTE}", "data.store={store}")),
        (prepare.main, ["synthetic", "--images", "64", "--out", REMOTE]),
        (prepare.main, ["synthetic", "--images", "64", "--out", SIGNED]),
        (prepare.main, ["own", "--sentences", REMOTE, "--features", REMOTE, "--out", REMOTE]),
        (verify.main, [REMOTE]),
        (verify.main, ["{store}", "--repair-from", REMOTE]),
        (plan.main, [REMOTE]),
        (audit.main, [REMOTE, "--task", REMOTE]),
        (convert.main, ["--from", REMOTE, "--to", "lxmert_dist", "--out", "{out}"]),
        (convert.main, ["--from", SIGNED, "--to", "lxmert_dist", "--out", "{out}"]),
    ],
)
def test_errors_are_told_without_secrets(main, line, debug, tiny_store, tmp_path, capfd):
    line = [word.replace("{store}", tiny_store) for word in line]
    line = [word.replace("{out}", str(tmp_path / "out")) for word in line]
    directory = words(f"directory={tmp_path / 'run'}") if "--set" in line else []
    try:
        code = main([*line, *directory, *debug])
    except SystemExit as error:
        code = error.code
    said = "".join(capfd.readouterr())
    assert code in (1, 2), said
    assert "error: " in said
    assert not sings(said), said
    assert ("Traceback" in said) == bool(debug) or "usage: " in said
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and sings(p.read_bytes())]


@pytest.mark.s3
@pytest.mark.distributed
def test_a_server_that_refuses_is_told_of_without_secrets(s3, tmp_path):
    settings = [*SMALL, f"directory={tmp_path}", f"data.store={s3.uri('store')}"]
    wrong = {"AWS_SECRET_ACCESS_KEY": f"{CANARY}-0"}
    done = run("pretrain.py", settings, env=environment(wrong))
    assert done.code == 1, done.output
    assert "AWS_SECRET_ACCESS_KEY" in done.output, "the advice can be read"
    assert not sings(done.output), done.output
    assert s3.access_key not in done.output
    assert not [p for p in Path(tmp_path).rglob("*") if p.is_file() and sings(p.read_bytes())]
