"""TOML files and ``--set`` overrides to a typed configuration, and back."""

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from lxmert_dist.config.run import FinetuneConfig
from lxmert_dist.errors import ConfigError

Config = TypeVar("Config", bound=BaseModel)
Tree = dict[str, Any]


def load_config(kind: type[Config], path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        kind: what to read.
        path: a TOML file; None starts from the defaults.
        overrides: ``a.b=value``; the value is read as TOML, or else taken as a string.

    Raises:
        ConfigError: the file is missing or no TOML, or a setting is unknown, of the wrong type or
            out of range; names the file and the setting.
    """
    tree = _read(path) if path else {}
    origin = f"{path}{' with --set' if overrides else ''}: " if path else ""
    for override in overrides:
        _apply(tree, override)
    unknown = sorted(set(_keys_of_tree(tree, kind)) - set(_keys_of_model(kind)))
    if unknown:
        raise ConfigError(origin + _unknown(unknown[0], kind))
    if "name" in tree:
        tree.setdefault("directory", _own_directory(tree, kind))
    try:
        # Through JSON, where a date of TOML is the text that it was; "1" is no number there either.
        return kind.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        raise ConfigError(origin + "; ".join(map(_explain, error.errors()[:3]))) from None


def dump_toml(config: BaseModel) -> str:
    """The whole tree as TOML, defaults included; ``load_config`` reads it back unchanged."""
    return "\n".join(_lines(config.model_dump(mode="json"), ""))


def flat_settings(config: BaseModel) -> dict[str, str | int | float | bool]:
    """The whole tree as ``a.b`` names, as a tracker wants it; what is no scalar is its text."""
    return dict(_flat(config.model_dump(mode="json"), ""))


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str | int | float | bool]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value if isinstance(value, str | int | float) else str(value)


def _read(path: Path) -> Tree:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}; check --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the configuration file {path} ({error}); check that it is a text in "
            "UTF-8, its permissions and the disk"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML ({error}); correct the line") from None


def _apply(tree: Tree, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override!r} must be KEY=VALUE")
    try:
        parsed = tomllib.loads(f"value = {text}")
        value = parsed["value"] if len(parsed) == 1 else text
    except tomllib.TOMLDecodeError:
        value = text
    *sections, last = key.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(
                f"--set {override!r}: {section} is not a section; "
                "see --print-config for all settings"
            )
    tree[last] = value


def _own_directory(tree: Tree, kind: type[BaseModel]) -> str:
    """Where a run that is not told keeps its things.

    Fine-tuning from scratch is a run of its own, beside the one that its file names.
    """
    apart = issubclass(kind, FinetuneConfig) and tree.get("init") == "scratch"
    return f"runs/{tree['name']}" + ("_scratch" if apart else "")


def _section(kind: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model of a field that is a section."""
    field = kind.model_fields.get(name)
    annotation = field.annotation if field else None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def _keys_of_tree(
    tree: Mapping[str, Any], kind: type[BaseModel], prefix: str = ""
) -> Iterator[str]:
    for name, value in tree.items():
        section = _section(kind, name)
        if isinstance(value, dict) and (section or name not in kind.model_fields):
            yield from _keys_of_tree(value, section or BaseModel, f"{prefix}{name}.")
        else:
            yield prefix + name


def _keys_of_model(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name in kind.model_fields:
        section = _section(kind, name)
        if section:
            yield from _keys_of_model(section, f"{prefix}{name}.")
        yield prefix + name


def _unknown(key: str, kind: type[BaseModel]) -> str:
    known = list(_keys_of_model(kind))
    near = difflib.get_close_matches(key, known, 1, 0.5)
    if not near:  # perhaps only the section is missing or wrong
        last = {name.rpartition(".")[2]: name for name in known}
        near = [last[n] for n in difflib.get_close_matches(key.rpartition(".")[2], last, 1, 0.6)]
    advice = f"did you mean {near[0]}?" if near else "see --print-config for all settings"
    return f"there is no setting {key}; {advice}"


def _explain(error: Mapping[str, Any]) -> str:
    place = ".".join(map(str, error["loc"]))
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"the setting {place} is missing; set it"
    if error["type"] == "value_error":
        return f"{place}: {message}" if place else message
    return f"{place}: {message[0].lower()}{message[1:]}, got {error['input']!r}"


def _lines(tree: Mapping[str, Any], section: str) -> Iterator[str]:
    inner = {key: value for key, value in tree.items() if isinstance(value, dict)}
    for key, value in tree.items():
        if key not in inner:
            yield f"{_key(key)} = {_toml(value)}"
    for key, value in inner.items():
        name = f"{section}.{_key(key)}" if section else _key(key)
        yield f"\n[{name}]"
        yield from _lines(value, name)
    if not section:
        yield ""


def _key(key: str) -> str:
    bare = key.replace("_", "").replace("-", "").isalnum() and key.isascii()
    return key if bare else _toml(key)


def _toml(value: object) -> str:
    """A value: JSON, but for tables, surrogate pairs and DEL, which TOML does not take."""
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{_key(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
