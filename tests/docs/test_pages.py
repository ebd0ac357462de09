"""Every page: its commands are run by a test, its links lead somewhere, what it names exists."""

import ast
import contextlib
import io
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import BaseModel

from lxmert_dist.config import FinetuneConfig, PretrainConfig
from lxmert_dist.config.ablation import AblationConfig
from lxmert_dist.config.detector_training import TrainableDetectorConfig
from pages import Page, all_pages, source
from runs import ROOT

PAGES = all_pages()
HISTORY = "CHANGELOG.md"
"""Tells of settings that are no more."""
TOPS = (PretrainConfig, FinetuneConfig, TrainableDetectorConfig, AblationConfig)
CHECKS = {
    "bash .ci/run": "it is what runs these checks",
    "uv run pytest": "it is this suite, which .ci/run starts",
    "uv run pytest tests/store": "a part of it",
    'uv run pytest -m "slow or not slow"': "all of it",
    'uv run pytest -m "not distributed and not ray and not s3"': "a part of it",
    "uv run --isolated --python 3.13 pytest": "it, with another Python, which not all have",
    "uv run pytest -n 0 -m slow tests/packaging": "a part of it",
    'uv run pytest -m "slow or not slow" -k browser': "a part of it",
    'uv run pytest -n 0 -m "slow or not slow" tests/docs': "a part of it",
    "uv run ruff check --fix && uv run ruff format": "it changes files; .ci/run has both as checks",
    "uv run mypy": "",
    "uv run lint-imports": "",
}
"""Commands of CONTRIBUTING.md: why no test runs one, or nothing where ``.ci/run`` does."""
KINDS = ("easy-vqa", "nlvr1", "lxmert", "task", "synthetic", "own")
"""Subcommands of ``launch/prepare.py``."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def pages_with_a_test() -> set[str]:
    """What the modules beside this one name in ``PAGE`` or as keys of ``PAGES``."""
    names = set()
    for file in Path(__file__).parent.glob("test_*.py"):
        for node in ast.parse(file.read_text()).body:
            match node:
                case ast.Assign([ast.Name("PAGE")], ast.Constant(str(name))):
                    names.add(name)
                case ast.Assign([ast.Name("PAGES")], ast.Dict(keys)):
                    names |= {k.value for k in keys if isinstance(k, ast.Constant)}
    return names


def test_every_page_with_commands_is_run():
    assert {page.name for page in PAGES if page.blocks} == pages_with_a_test()


@each_page
def test_links_lead_to_files_and_headings(page):
    for link in page.links:
        file = source(page, link) if not link.startswith("#") else ROOT / page.name
        assert file.exists(), link
        assert file.is_relative_to(ROOT), link
        if "#" in link:
            assert link.partition("#")[2] in Page(str(file.relative_to(ROOT))).anchors, link


def test_links_are_found():
    assert sum(len(page.links) for page in PAGES) > 60
    assert "runconfig" in Page("configs/README.md").anchors


@cache
def options(script: str, kind: str = "") -> set[str]:
    """Those of a command, or of one of its subcommands."""
    said = io.StringIO()
    line = [kind, "--help"] if kind else ["--help"]
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        import_module(f"lxmert_dist.cli.{script}").main(line)
    return set(re.findall(r"--[a-z][a-z0-9-]*", said.getvalue()))


def options_of(script: str, words: list[str]) -> set[str]:
    """Of ``prepare.py`` those of the subcommand; of any of them, where running text names none."""
    if script != "prepare":
        return options(script)
    kinds = [word for word in words[:1] if word in KINDS] or KINDS
    return set().union(*(options(script, kind) for kind in kinds))


def commands(page: Page) -> Iterator[tuple[str, str, list[str]]]:
    """Folder, name, and what follows, of each script of ours that a page's code starts or names."""
    for code in page.code:
        match = re.search(r"\b(launch|benchmarks)/(\w+)\.py\b(.*)", code, re.DOTALL)
        if match and match[2] != "NAME":
            folder, name, rest = match.groups()
            with contextlib.suppress(ValueError):  # an apostrophe that is none of a shell's
                yield folder, name, shlex.split(rest, comments=True)


@each_page
def test_scripts_and_their_options_exist(page):
    for folder, name, words in commands(page):
        assert (ROOT / folder / f"{name}.py").is_file(), name
        named = {w.partition("=")[0] for w in words if w.startswith("--") and len(w) > 2}
        if folder == "benchmarks":
            text = (ROOT / folder / f"{name}.py").read_text()
            missing = {option for option in named if f'"{option}"' not in text}
        else:
            missing = named - options_of(name, words)
        assert not missing, f"{folder}/{name}.py has no {missing}"


def test_options_of_subcommands_are_told_apart():
    assert "--task-json" in options_of("prepare", ["task"])
    assert "--task-json" not in options_of("prepare", ["synthetic"])
    assert "--task-json" in options_of("prepare", [])


@cache
def settings() -> set[str]:
    """All names, and those of sections."""
    return {name for top in TOPS for name in _names(top)}


def _names(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _names(field.annotation, f"{prefix}{name}.")
        elif str(field.annotation).startswith("dict["):
            yield f"{prefix}{name}.*"


def is_setting(name: str) -> bool:
    return name in settings() or f"{name.rpartition('.')[0]}.*" in settings()


def is_python(name: str) -> bool:
    """Whether a room, some of which are called as sections, has it."""
    room, _, attribute = name.partition(".")
    return hasattr(import_module(f"lxmert_dist.{room}"), attribute)


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != HISTORY], ids=lambda p: p.name)
def test_settings_exist(page):
    code = "\n".join([*page.code, *(block.text for block in page.blocks)])
    for name in re.findall(r"""--set['",]* +['"]?([\w.]+)=""", code):
        assert is_setting(name) or name == "section.name", name
    sections = "|".join(name for name in settings() if f"{name}." in "\n".join(settings()))
    for name in re.findall(rf"`((?:{sections})\.[\w.]+)", page.prose):
        assert is_setting(name) or is_python(name) or name.endswith((".py", ".toml")), name


def test_a_wrong_setting_would_be_seen():
    assert is_setting("data.source_weights.vg")
    assert not is_setting("data.cash")


def test_checks_for_contributors_are_those_that_run_on_main():
    page = Page("CONTRIBUTING.md")
    found = re.findall(r"^\|[^|]+\| (.*) \|$", page.text, re.MULTILINE)[1:]
    commands = [c for cell in found for c in re.findall(r"`([^`]+)`", cell) if " " in c]
    assert commands == list(CHECKS)
    ours = (ROOT / ".ci" / "run").read_text()
    assert all(why or f"step {command}" in ours for command, why in CHECKS.items())
    assert "step uv run pytest" in ours


def test_the_wheel_on_the_front_page_is_the_one_that_is_built():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"dist/lxmert_dist-{project['version']}-py3-none-any.whl" in Page("README.md").text
