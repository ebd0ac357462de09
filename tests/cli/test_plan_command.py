"""``launch/plan.py``: the numbers of a simulated epoch, read from what the command prints."""

import subprocess
import sys

import numpy as np
import pytest

from lxmert_dist.cli import plan
from lxmert_dist.store import open_store
from lxmert_dist.store.split import Split
from lxmert_dist.stream.loader import index_pairs
from lxmert_dist.stream.plan import PlanSettings
from lxmert_dist.stream.simulate import simulate_epoch

LINE = ["--lanes", "4", "--window", "2", "--batch", "32", "--world-size", "2"]


@pytest.fixture
def command(tiny_store, capsys):
    """Runs the command on the tiny store; returns its exit code, its output and its error."""

    def command(*line, uri=tiny_store):
        code = plan.main([uri, *map(str, line)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return command


def numbers(row: str) -> list[float]:
    return [float(word.replace(",", "")) for word in row.split()[1:]]


@pytest.mark.parametrize("sources", [(), ("questions",)])
def test_it_prints_every_rank_and_all_of_them(tiny_store, command, sources):
    options = ["--seed", 3, "--epoch", 2, "--read-ahead", 3, "--pairs-per-image", 2]
    chosen = ["--sources", *sources] if sources else []
    code, said, _ = command(*LINE, *options, *chosen)
    assert code == 0
    store = open_store(tiny_store)
    split = store.split("train")
    sizes = np.array([s.chunk.num_bytes for s in store.manifest.splits["train"].shards])
    load = simulate_epoch(
        index_pairs(split, sources),
        PlanSettings(4, 2, 32, 2),
        sizes,
        seed=3,
        epoch=2,
        world_size=2,
        read_ahead_steps=3,
    )
    header, *rows = said.split("\n\n")[0].splitlines()
    assert header.split()[:3] == ["rank", "steps", "pairs"]
    assert [row.split()[0] for row in rows] == ["0", "1", "all"]
    for row, own in zip(rows, [*load.ranks, load], strict=True):
        steps, pairs, images, megabytes, objects, window, mean, most, imbalance = numbers(row)
        assert (steps, pairs, images) == (load.steps, own.pairs, own.images)
        assert megabytes == pytest.approx(own.bytes_read / 1e6, abs=0.051)
        assert objects == own.objects_read
        assert window == pytest.approx(own.window_bytes.max() / 1e6, abs=0.051)
        assert mean == pytest.approx(own.repeats.mean(), abs=0.00051)
        assert most == own.repeats.max()
        assert imbalance > 0
    share = load.ranks[0].bytes_read / (load.bytes_read / 2)
    assert numbers(rows[0])[-1] == pytest.approx(share, abs=0.00051)
    assert f"{load.read_ratio:.4f} = bytes read / bytes in the store" in said
    assert f"{load.left_out:,} pairs" in said


def test_weights_leave_pairs_to_other_epochs(tiny_store, command):
    split = open_store(tiny_store).split("train")
    captions, questions = (len(index_pairs(split, (name,))) for name in ("captions", "questions"))
    for weights, pairs in (
        (["captions=0"], questions),
        (["captions=0.5", "questions=0.25"], round(captions / 2) + round(questions / 4)),
    ):
        said = command(*LINE, "--epoch", 1, "--weights", *weights)[1]
        assert f"{pairs:,} pairs to visit" in said
        assert said != command(*LINE, "--epoch", 2, "--weights", *weights)[1]


def test_the_bar_is_named_when_it_is_missed(command):
    assert "; at most 1.03" in command(*LINE[:-2], "--world-size", 1, "--lanes", 1)[1]
    assert "; ABOVE 1.03" in command(*LINE[:-2], "--world-size", 4)[1]


def test_no_feature_is_read(command, monkeypatch):
    def refuse(*_):
        raise AssertionError("features were read")

    monkeypatch.setattr(Split, "read_shard", refuse)
    assert command(*LINE)[0] == 0


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_epoch_is_drawn(command, tmp_path, suffix):
    file = tmp_path / f"plan.{suffix}"
    code, said, _ = command(*LINE, "--plot", file)
    assert code == 0
    assert str(file) in said
    begin = {"png": b"\x89PNG", "svg": b"<?xml"}[suffix]
    assert file.read_bytes().startswith(begin)
    assert file.stat().st_size > 10_000


def test_drawing_without_matplotlib_says_what_to_install(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, said, error = command(*LINE, "--plot", tmp_path / "plan.png")
    assert code == 1
    assert "pip install 'lxmert_dist[plot]'" in error
    assert "bytes read / bytes in the store" in said, "the numbers come all the same"


def test_matplotlib_is_not_imported_unless_it_draws(tiny_store):
    program = (
        "import sys; from lxmert_dist.cli.plan import main; "
        f"code = main([{tiny_store!r}, *{LINE!r}]); "
        "raise SystemExit(code or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def test_the_planner_as_a_module_is_the_same_command(tiny_store, command):
    line = [sys.executable, "-m", "lxmert_dist.stream.plan", tiny_store, *LINE]
    done = subprocess.run(line, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == command(*LINE)[1]
    done = subprocess.run([*line, "--epoch", "-1"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--epoch counts from 0" in done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--world-size", "3"], "3 ranks do not divide"),
        (["--lanes", "5"], "--lanes 5 must divide --batch 32"),
        (["--batch", "40000"], "more than the"),
        (["--window", "0"], "--window counts from 1"),
        (["--epoch", "-1"], "--epoch counts from 0"),
        (["--sources", "poems"], "poems"),
        (["--weights", "poems=0.5"], "weights are given for poems"),
        (["--weights", "captions"], "--weights captions: must be NAME=SHARE"),
        (["--weights", "captions=2"], "with a share from 0 to 1"),
        (["--weights", "captions=nan"], "with a share from 0 to 1"),
        (["--weights", "captions=0", "questions=0"], "visits no pairs"),
        (["--plot", "plan.txt"], "plan.txt must end in"),
    ],
)
def test_wrong_usage_is_named(command, line, message):
    code, said, error = command(*LINE, *line)
    assert (code, said) == (2, "")
    assert message in error


def test_a_missing_store_and_split_are_named(command, tmp_path):
    assert "no feature store" in command(uri=str(tmp_path / "nothing"))[2]
    assert "no split 'all'" in command(*LINE, "--split", "all")[2]
