"""Every error of the package that a user sees says what to do: read from its syntax trees."""

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

TEXT = (ast.Constant, ast.JoinedStr, ast.BinOp, ast.IfExp)
Names = dict[str, list[str]]
"""What is said by a name: a variable with text, or a function that returns it."""

PACKAGE = Path(__file__).parents[2] / "lxmert_dist"

VERBS = (
    "add|append|answer|ask|bring|build|check|choose|close|convert|copy|correct|delete|draw|fetch|"
    "fine-tune|free|give|install|keep|leave|lengthen|lower|make|mend|move|name|pip|prepare|pretrain|"
    "put|raise|reinstall|remove|rename|renew|report|restore|run|save|say|scale|see|send|set|start|"
    "stop|take|train|unpack|use|validate|wait|write"
)
ACTION = re.compile(rf"(?:^|[;:.)] )(?:{VERBS})\b", re.IGNORECASE)
"""A clause that begins with one of these verbs."""
RANGE = re.compile(
    r"\bmust\b|\bcounts? from\b|\bneeds\b|\bgo together\b|\bgoes with\b|\bdid you mean\b"
)
"""What a setting or an option has to be, which says what to do. Such messages are complete."""
AGAIN = re.compile(r"\bthe same command goes on\b", re.IGNORECASE)

WRAPPED = {
    # A row, a file or a stage is put before a message that is complete.
    "cli/ablate.py": ["row {}: {}"],
    "interop/source.py": ["{}: {}"],
    "store/shard.py": ["{}"],
    "stream/passes.py": ["{}{}"],
    # The name of a temporary folder in a message that is complete becomes that of the place.
    "cli/extract.py": ["{}"],
    "interop/tokenizers.py": ["{}"],
    # The words of another rank, or of an error below, which are complete.
    "cli/training.py": ["{}"],
    "train/checkpoint.py": ["{}"],
    "train/resume.py": ["{}"],
    "train/watchdog.py": ["{}"],
    # Why nothing could be written, and what to do, is of store/transit.py; here is which setting.
    "train/writer.py": ["cannot write the checkpoint {}: {} (checkpoint.uri)"],
    # What is wrong with a setting: of pydantic, which says what it expects, or of the validators.
    "config/load.py": ["{}", "{} with --set: {}", "{}: {}"],
    # Whoever opens a sealed directory hands in what to do; S3's codes have a table of it.
    "store/sealed.py": [
        "{}/manifest.json is damaged; {}",
        "{}/{} is damaged (length or checksum); {}",
        "{}/{} is missing; {}",
    ],
    "store/transit.py": ["cannot reach {}: access denied ({}); {}"],
    # What to do is added by `repeated` of store/access.py, and by ingest/easy_vqa.py.
    "store/access.py": [
        "{} has {} bytes, the manifest says {}",
        "{} is damaged: its checksum does not match",
        "{} is missing",
    ],
    "store/chunks.py": [
        "{} has {} bytes, the manifest says {}",
        "{} is damaged: its checksum does not match",
    ],
    "ingest/captions.py": ["the answers contradict each other: of {} they assert {} and deny {}"],
}
"""By file, all messages that do not say what to do, because others make them complete."""


class Message(NamedTuple):
    """What an error is made with; {} stands for what is known only when it is raised."""

    file: str
    line: int
    text: str


class Package:
    """What the syntax trees of a package's files say of its errors."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._trees = {file: ast.parse(text) for file, text in sources.items()}
        self._errors = self._subclasses("LxmertError")
        self._shared: Names = {}
        for tree in self._trees.values():
            self._shared |= _named(tree, {})

    def _subclasses(self, root: str) -> set[str]:
        nodes = [node for tree in self._trees.values() for node in ast.walk(tree)]
        classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
        known = {root}
        while more := {c.name for c in classes if known & {*map(ast.unparse, c.bases)}} - known:
            known |= more
        return known

    def messages(self) -> Iterator[Message]:
        """One for every way that the parts of a message may be chosen."""
        for file, tree in self._trees.items():
            shown = self._errors | ({"ValueError"} if file.startswith("config/") else set())
            own = self._shared | _named(tree, self._shared)
            for scope in ast.walk(tree):
                if isinstance(scope, ast.FunctionDef):
                    names = own | _named(scope, own)
                    for line, text in _made(scope, shown):
                        for way in texts(text, names):
                            yield Message(file, line, way)


def _made(scope: ast.FunctionDef, errors: Collection[str]) -> Iterator[tuple[int, ast.expr]]:
    """Line and text of the errors that a function makes; those in it are scopes of their own."""
    waiting: list[ast.AST] = [*scope.body]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.FunctionDef():
                continue
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[text, *_]):
                if name in errors:
                    yield node.lineno, text
        waiting += ast.iter_child_nodes(node)


def _named(scope: ast.Module | ast.FunctionDef, around: Names) -> Names:
    """What a scope's variables hold and its functions return, where that is text."""
    found: Names = {}
    for node in scope.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if isinstance(value, TEXT):
                if not _is_blank(value):
                    found[name] = texts(value, around | found)
            case ast.FunctionDef(name=name):
                values = [n.value for n in ast.walk(node) if isinstance(n, ast.Return)]
                if values and all(isinstance(value, TEXT) for value in values):
                    names = around | found
                    names |= _named(node, names)
                    found[name] = [way for value in values if value for way in texts(value, names)]
    return found


def _is_blank(node: ast.expr) -> bool:
    """Whether a variable starts as nothing, to be filled later."""
    return isinstance(node, ast.Constant) and not node.value


def texts(node: ast.expr, names: Names) -> list[str]:
    """All that an expression may say, as far as it can be seen."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(way) for way in product(*(texts(part, names) for part in parts))]
        case ast.FormattedValue(value=value):
            return texts(value, names)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return ["".join(way) for way in product(texts(left, names), texts(right, names))]
        case ast.IfExp(body=body, orelse=orelse):
            return texts(body, names) + texts(orelse, names)
        case ast.Name(id=name) | ast.Call(func=ast.Name(id=name)) if name in names:
            return names[name]
        case _:
            return ["{}"]


def says_what_to_do(text: str) -> bool:
    return any(pattern.search(text) for pattern in (ACTION, RANGE, AGAIN))


def silent(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """By file, the messages that do not say what to do."""
    found: dict[str, set[str]] = {}
    for message in Package(sources).messages():
        if not says_what_to_do(message.text):
            found.setdefault(message.file, set()).add(message.text)
    return {file: sorted(there) for file, there in found.items()}


def test_every_error_says_what_to_do():
    files = sorted(PACKAGE.rglob("*.py"))
    sources = {file.relative_to(PACKAGE).as_posix(): file.read_text() for file in files}
    assert silent(sources) == WRAPPED


def module(statement: str) -> str:
    return f"""
class LxmertError(Exception): ...
class DataError(LxmertError): ...
class TornError(DataError): ...
ADVICE = "fetch it again"

def empty(path):
    return f"{{path}}: it is empty"

def read(path):
    {statement}
"""


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ('raise DataError(f"{path}: broken")', "{}: broken"),
        ('raise TornError(f"{path}: broken") from None', "{}: broken"),
        ('raise errors.DataError("broken", path)', "broken"),
        ("raise DataError(empty(path))", "{}: it is empty"),
        ("raise DataError(str(path))", "{}"),
        ('return DataError(f"{path}: the set was broken")', "{}: the set was broken"),
        ('why = "torn"; raise DataError(f"{path}: {why}; give up?" if path else why)', "torn"),
        ('raise DataError("{path}: broken; {ADVICE}")', "{path}: broken; {ADVICE}"),
    ],
)
def test_an_error_that_does_not_say_so_is_found(statement, text):
    assert silent({"store/new.py": module(statement)}) == {"store/new.py": [text]}


@pytest.mark.parametrize(
    "statement",
    [
        'raise DataError(f"{path}: broken; fetch it again")',
        'raise DataError(f"{path}: broken. Fetch it again")',
        'raise DataError(f"{path}: broken; {ADVICE}")',
        'advice = "remove it"; raise TornError(f"{path}: broken; {advice}")',
        'raise DataError("--threads counts from 1")',
        'raise ValueError(f"{path}: broken")',
    ],
)
def test_an_error_that_says_so_is_not(statement):
    assert silent({"store/new.py": module(statement)}) == {}


def test_a_validator_of_the_settings_is_held_to_it():
    source = module('raise ValueError("steps are odd")')
    assert silent({"config/new.py": source}) == {"config/new.py": ["steps are odd"]}
