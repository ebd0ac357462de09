"""What pyproject.toml declares is what the code imports, names and starts."""

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions

import pytest

from lxmert_dist.cli.command import command_line
from lxmert_dist.cli.pretrain import main as pretrain
from runs import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
SOURCES = sorted((ROOT / "lxmert_dist").rglob("*.py"))


def normalised(requirement: str) -> str:
    """The name of a distribution as all spell it."""
    return re.split(r"[\[<>=~! ]", requirement)[0].lower().replace("_", "-")


def imported() -> Iterator[tuple[str, str]]:
    """Names of packages that the code imports, and where."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            yield from ((name.partition(".")[0], path.name) for name in names)


def test_the_extras_are_those_promised():
    assert {"ray", "mlflow", "detect", "obstore", "dev"} <= EXTRAS.keys()


def test_messages_name_extras_that_exist():
    asked = [
        (path.name, name)
        for path in [*SOURCES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
        for names in re.findall(r"lxmert_dist\[([^\]\"]+)\]'", path.read_text())
        for name in names.split(",")
    ]
    assert {name for _, name in asked} >= {"ray", "mlflow", "detect", "obstore", "plot"}
    assert [(file, name) for file, name in asked if name not in EXTRAS] == []


def test_every_imported_package_is_declared():
    declared = {normalised(r) for r in PROJECT["dependencies"]}
    declared |= {normalised(r) for name in EXTRAS.keys() - {"dev"} for r in EXTRAS[name]}
    providers = packages_distributions()
    missing = {
        (name, file)
        for name, file in imported()
        if name not in sys.stdlib_module_names and name != "lxmert_dist"
        if not declared & {normalised(d) for d in providers.get(name, [name])}
    }
    assert missing == set()


def test_every_launch_script_is_a_command_of_the_wheel():
    scripts = PROJECT["scripts"]
    for script in sorted((ROOT / "launch").glob("*.py")):
        name = f"lxmert-{script.stem.replace('_', '-')}"
        assert scripts.get(name) == f"lxmert_dist.cli.{script.stem}:main", script.name
        assert command_line(script.stem) == f"uv run launch/{script.name}"
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
    assert command_line("no_such_script") == "lxmert-no-such-script"


def test_configurations_that_come_along_are_found_from_anywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for line in ([], ["--config", "configs/pretrain/lxmert.toml"]):
        assert pretrain(["--print-config", *line]) == 0
        name = "lxmert" if line else "easy_vqa"
        assert f'name = "{name}"' in capsys.readouterr().out


@pytest.mark.parametrize("name", ["configs/pretrain/no.toml", "pretrain/lxmert.toml"])
def test_a_configuration_that_is_nowhere_is_named_as_it_was_given(name, capsys):
    assert pretrain(["--print-config", "--config", name]) == 2
    assert f"there is no configuration file {name}; check --config" in capsys.readouterr().err


def test_a_configuration_of_the_users_comes_first(tmp_path, monkeypatch, capsys):
    own = tmp_path / "configs" / "pretrain" / "lxmert.toml"
    own.parent.mkdir(parents=True)
    own.write_text('name = "mine"\n[data]\nstore = "s"\n')
    monkeypatch.chdir(tmp_path)
    assert pretrain(["--print-config", "--config", "configs/pretrain/lxmert.toml"]) == 0
    assert 'name = "mine"' in capsys.readouterr().out
