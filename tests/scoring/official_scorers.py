"""Runs the official scripts, where they are, beside ours; as a program it records what they say.

``OFFICIAL_SCORERS`` names a folder with ``vqaEval.py`` (GT-Vision-Lab/VQA, a013f00), which takes
Python 2.7, named by ``PYTHON2``; ``eval.py`` from GQA's evaluation download; ``metrics.py``
(lil-lab/nlvr, 1892484, nlvr2/eval). Then ``python tests/scoring/official_scorers.py`` writes
``official.json``, which tests compare with wherever they run.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import scoring_cases

RECORD = Path(__file__).parent / "official.json"
SCRIPTS = os.environ.get("OFFICIAL_SCORERS", "")

_VQA = """
import imp, json, sys
script = imp.load_source("script", sys.argv[1])
case = json.load(sys.stdin)
said, sys.stdout = sys.stdout, open("/dev/null", "w")
class Entries(object):
    def __init__(self, entries):
        self.qa = dict((entry["question_id"], entry) for entry in entries)
        self.ids = [entry["question_id"] for entry in entries]
    def getQuesIds(self):
        return self.ids
run = script.VQAEval(Entries(case["annotations"]["annotations"]), Entries(case["results"]))
strings = [s.replace("\\n", " ").replace("\\t", " ").strip() for s in case["strings"]]
strings = [run.processDigitArticle(run.processPunctuation(s)) for s in strings]
run.evaluate()
json.dump({"strings": strings, "accuracy": run.accuracy, "questions": run.evalQA}, said)
"""
_GQA = """
import json, runpy, sys
script, out, *rest = sys.argv[1:]
sys.argv = [script, *rest]
scores = runpy.run_path(script, run_name="__main__")["scores"]
json.dump(scores, open(out, "w"))
"""


def vqa(case: dict[str, Any]) -> dict[str, Any]:
    """What VQA's script makes of ``strings``, and the accuracies of ``results``."""
    command = [os.environ.get("PYTHON2", "python2.7"), "-c", _VQA, f"{SCRIPTS}/vqaEval.py"]
    ran = subprocess.run(command, input=json.dumps(case).encode(), stdout=-1, check=True)
    return json.loads(ran.stdout)


def gqa(case: dict[str, Any]) -> dict[str, Any]:
    """The scores of GQA's script; those by type are pairs of per cent and number."""
    with tempfile.TemporaryDirectory() as place:
        for name in ("questions", "choices", "predictions"):
            Path(place, f"{name}.json").write_text(json.dumps(case[name]))
        options = [
            f"--{name}={place}/{name}.json" for name in ("questions", "choices", "predictions")
        ]
        command = [sys.executable, "-c", _GQA, f"{SCRIPTS}/eval.py", f"{place}/out.json"]
        subprocess.run([*command, *options, "--consistency"], capture_output=True, check=True)
        return json.loads(Path(place, "out.json").read_text())


def nlvr2(case: dict[str, Any]) -> dict[str, float]:
    """Accuracy and consistency as NLVR2's script prints them: shares."""
    with tempfile.TemporaryDirectory() as place:
        lines = (f"{uid},{answer}\n" for uid, answer in case["predictions"].items())
        Path(place, "predictions.csv").write_text("".join(lines))
        examples = (json.dumps(example) + "\n" for example in case["examples"])
        Path(place, "examples.json").write_text("".join(examples))
        files = [f"{place}/predictions.csv", f"{place}/examples.json"]
        command = [sys.executable, f"{SCRIPTS}/metrics.py", *files]
        said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return {name: float(value) for name, _, value in (line.partition("=") for line in said.split())}


def draw_cases(seed: int, size: int) -> dict[str, dict[str, Any]]:
    """A case of every task."""
    draw = random.Random(seed)
    strings = [scoring_cases.text(draw) for _ in range(10 * size)]
    return {
        "vqa": {**scoring_cases.vqa(draw, size), "strings": strings},
        "gqa": scoring_cases.gqa(draw, size),
        "nlvr2": scoring_cases.nlvr2(draw, size),
    }


def ask(cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the official scripts say of every case."""
    return {"vqa": vqa(cases["vqa"]), "gqa": gqa(cases["gqa"]), "nlvr2": nlvr2(cases["nlvr2"])}


if __name__ == "__main__":
    drawn = draw_cases(seed=20, size=80)
    record = {"cases": drawn, "said": ask(drawn)}
    RECORD.write_text(json.dumps(record, separators=(",", ":")) + "\n")
