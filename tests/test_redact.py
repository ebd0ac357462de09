"""Secrets are hidden wherever they may stand; everything else stays as it is."""

import logging
import sys
import traceback

import pytest

from lxmert_dist.redact import redact, redact_param, redact_tree, redacted_output


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@host/bucket", "s3://…@host/bucket"),
        ("s3://key:sec/ret@bucket/x", "s3://…@bucket/x"),
        ("s3://key:s@cr@t@bucket/x", "s3://…@bucket/x"),
        ("s3://key@bucket/x", "s3://…@bucket/x"),
        ('Invalid name "key:secret@bucket": no', 'Invalid name "…@bucket": no'),
        ('uri = "http://b/x?X-Amz-Signature=ab&n=1"', 'uri = "http://b/x?…"'),
        ('Invalid bucket name "key:sec": it must', 'Invalid bucket name "…": it must'),
        ("AWS_SECRET_ACCESS_KEY=abc123/x", "AWS_SECRET_ACCESS_KEY=[hidden]"),
        ('password = "p w"', 'password = "[hidden]"'),
        ("password=123456", "password=[hidden]"),
        (
            '{"aws_secret_access_key": "a\\"b", "x": 1}',
            '{"aws_secret_access_key": "[hidden]", "x": 1}',
        ),
        ("key AKIAIOSFODNN7EXAMPLE", "key [hidden]"),
        ("session_token: abc", "session_token: [hidden]"),
        ("Authorization: Bearer a.b.c, next", "Authorization: [hidden], next"),
        ("AccountKey=abc==;x=1", "AccountKey=[hidden];x=1"),
    ],
)
def test_secrets_are_hidden(text, shown):
    assert redact(text) == shown
    assert redact(shown) == shown, "twice is once"


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens = 20",
        "token_mask_rate = 1e-1",
        "token_types: two",
        "http://host:5000/path",
        "http://host:9000/a@b",
        "s3://bucket/a b/c.json",
        "/data/run:3/a@b?.txt",
        "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=/home/me/token",
        "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they are allowed to do",
        "sqlite:////data/runs/mlflow.db",
        "--set 'train.epochs' must be KEY=VALUE",
        'Invalid bucket name "a_b!": it must',
        "tokenizer: bert-base-uncased",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text


def test_values_of_secret_variables_are_hidden_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "/canary+1/")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "canary-2")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary-2-and-more")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/me/token")
    monkeypatch.setenv("HF_TOKEN", "1234")
    text = "got '/canary+1/', x%2Fcanary%2B1%2Fx, canary-2 canary-2-and-more /home/me/token 1234"
    hidden = "got '[hidden]', x[hidden]x, [hidden] [hidden] /home/me/token 1234"
    assert redact(text) == hidden


def test_secret_settings_are_hidden_by_their_names():
    assert redact_param("tracking.token", "abc") == "[hidden]"
    assert redact_param("server.password", 1234) == "[hidden]"
    assert redact_param("data.max_tokens", 20) == "20"
    assert redact_param("objectives.token_mask_rate", 0.15) == "0.15"


def test_a_tree_keeps_its_numbers_and_its_names():
    tree = {"data": {"store": "s3://a:b@c/d", "max_tokens": 20, "sources": ["x", "y:z@w"]}}
    tree["tracking"] = {"token": "abc", "uri": "", "mlflow": True}
    assert redact_tree(tree) == {
        "data": {"store": "s3://…@c/d", "max_tokens": 20, "sources": ["x", "…@w"]},
        "tracking": {"token": "[hidden]", "uri": "", "mlflow": True},
    }


def test_whatever_is_said_on_the_way_is_redacted(monkeypatch, capsys):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-1")
    with redacted_output():
        sys.stdout.write("printed canary-1\n")
        logging.lastResort.handle(logging.makeLogRecord({"msg": "logged canary-1", "levelno": 40}))
        try:
            raise ValueError("raised canary-1")
        except ValueError:
            traceback.print_exc()
        sys.stderr.writelines(["lines canary-1\n"])
        assert not sys.stderr.isatty()
    sys.stdout.write("after canary-1\n")
    said = capsys.readouterr()
    for word in ("printed", "after"):
        assert word in said.out
    for word in ("logged", "raised", "lines"):
        assert word in said.err
    assert (said.out + said.err).count("canary-1") == 1
