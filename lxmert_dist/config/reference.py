"""The reference of all settings, made of the types that read them: ``configs/README.md``.

``python -m lxmert_dist.config.reference > configs/README.md`` writes it anew.
"""

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lxmert_dist.config.ablation import AblationConfig, AblationRow
from lxmert_dist.config.detector import DetectorConfig
from lxmert_dist.config.detector_training import TrainableDetectorConfig
from lxmert_dist.config.run import FinetuneConfig, PretrainConfig, RunConfig

HEAD = """\
# Settings

A command reads one TOML file (`--config FILE`) and changes to it (`--set section.name=VALUE`, the
value as TOML has it). An unknown name, a wrong type and a value out of range are errors that name
the file and the setting, before anything runs. `--print-config` shows the whole tree of a run.

| files | read by | top |
|---|---|---|
| `pretrain/*.toml` | `launch/pretrain.py` | [run](#runconfig), [pretraining](#pretrainconfig) |
| `finetune/*.toml` | `launch/finetune.py` | [run](#runconfig), [fine-tuning](#finetuneconfig) |
| `detector/*.toml` | `launch/train_detector.py`; `detector.toml` of a detector | \
[detector](#detectorconfig), [its training](#trainabledetectorconfig) |
| `ablations/*.toml` | `launch/ablate.py` | [ablation](#ablationconfig) |

Made by `python -m lxmert_dist.config.reference > configs/README.md` of the types that read the
files; a setting without a default must be given.
"""

COMMON = "lxmert_dist.config.sections"
TOPS: tuple[tuple[type[BaseModel], str], ...] = (
    (RunConfig, "What pretraining and fine-tuning share."),
    (PretrainConfig, "Pretraining alone."),
    (FinetuneConfig, "Fine-tuning alone."),
    (DetectorConfig, "A Faster R-CNN."),
    (TrainableDetectorConfig, "How one is trained, beside its own settings."),
    (AblationConfig, "A study of several runs."),
    (AblationRow, "Each `[[rows]]` of a study."),
)


def reference() -> str:
    """The whole document, in Markdown."""
    return "\n".join([HEAD, *_parts()])


def _parts() -> Iterator[str]:
    told: set[type[BaseModel]] = set()
    for top, text in TOPS:
        yield f"## {top.__name__}\n\n{text}\n"
        inherited = {name for base in top.__mro__[1:] if base in told for name in _fields(base)}
        own = {name: field for name, field in top.model_fields.items() if name not in inherited}
        told.add(top)
        plain = {name: field for name, field in own.items() if _section(field) is None}
        if plain:
            yield _table(top, plain)
        for name, field in own.items():
            section = _section(field)
            if section is not None and section not in told:
                told.add(section)
                lines = inspect.getdoc(section) or ""
                yield f"### `[{name}]`\n\n{' '.join(lines.split())}\n"
                yield _table(section, section.model_fields)


def _fields(kind: type) -> frozenset[str]:
    return frozenset(kind.model_fields) if issubclass(kind, BaseModel) else frozenset()


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _table(kind: type[BaseModel], fields: dict[str, FieldInfo]) -> str:
    lines = ["| setting | type | default | |", "|---|---|---|---|"]
    for name, field in fields.items():
        written, text = _told(kind)[name]
        cells = [f"`{name}`", f"`{written}`", _default(field), text]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value: Any = field.get_default(call_default_factory=True)
    return "" if value is None else f"`{json.dumps(value, default=str)}`"


@cache
def _told(kind: type[BaseModel]) -> dict[str, tuple[str, str]]:
    """Of each field, the type as the code has it and the docstring behind it."""
    found: dict[str, tuple[str, str]] = {}
    for base in reversed(kind.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, [*body.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                written = _type(field.annotation, _aliases(base.__module__) | _aliases(COMMON))
                found[field.target.id] = written, _docstring(after)
    return found


@cache
def _aliases(module: str) -> dict[str, ast.expr]:
    """The names that a module gives to types."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def _type(annotation: ast.expr, aliases: Mapping[str, ast.expr]) -> str:
    """``Annotated[int, Field(ge=1)]`` as ``int >= 1``; other types as they stand."""
    match annotation:
        case ast.Name(id=name) if name in aliases:
            return _type(aliases[name], aliases)
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[kind, *rest])):
            signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
            bounds = [
                f"{signs[word.arg]} {ast.unparse(word.value)}"
                for call in rest
                if isinstance(call, ast.Call)
                for word in call.keywords
                if word.arg in signs
            ]
            return " ".join([_type(kind, aliases), ", ".join(bounds)]).strip()
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return ast.unparse(choices).strip("()").replace("'", '"').replace(", ", " | ")
        case _:
            return ast.unparse(annotation)


def _docstring(node: ast.stmt | None) -> str:
    match node:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return " ".join(text.replace("``", "`").split())
    return ""


if __name__ == "__main__":
    sys.stdout.write(reference())
