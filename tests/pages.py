"""What is in a Markdown page: blocks to run, code in running text, links and their targets."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from runs import ROOT

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
_OMITTED = {".venv", "node_modules", "runs", "data", "exports", "weights", "dist"}


@dataclass(frozen=True)
class Block:
    """Code that a reader is to run."""

    kind: str
    """``bash`` or ``python``."""
    text: str


@dataclass(frozen=True)
class Page:
    """One page, by its path in the repository."""

    name: str

    @cached_property
    def text(self) -> str:
        return (ROOT / self.name).read_text()

    @property
    def blocks(self) -> list[Block]:
        """What can be run, in order."""
        found = (Block(*match) for match in _BLOCK.findall(self.text))
        return [block for block in found if block.kind in ("bash", "python")]

    @property
    def prose(self) -> str:
        """The page without its blocks."""
        return _BLOCK.sub("", self.text)

    @property
    def code(self) -> list[str]:
        """Pieces of code: blocks of commands, whose lines are joined, and code in running text."""
        lines = [b.text.replace("\\\n", " ") for b in self.blocks if b.kind == "bash"]
        # In running text, code goes on behind the end of a line.
        inline = re.findall(r"`([^`]+)`", self.prose)
        return [*(line for text in lines for line in text.splitlines()), *inline]

    @property
    def links(self) -> list[str]:
        """To other files of the repository, as they are written."""
        return [link for link in _LINK.findall(self.prose) if "://" not in link]

    @property
    def anchors(self) -> set[str]:
        """The names of headings, as GitHub makes them."""
        headings = _HEADING.findall(self.prose)
        return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def all_pages() -> list[Page]:
    """Every Markdown file of the repository, but for what builds and runs left in it."""
    files = (file.relative_to(ROOT) for file in ROOT.rglob("*.md"))
    ours = (f for f in files if not any(p in _OMITTED or p[0] == "." for p in f.parts[:-1]))
    return [Page(str(file)) for file in sorted(ours)]


def source(page: Page, link: str) -> Path:
    """The file that a link leads to."""
    return ((ROOT / page.name).parent / link.partition("#")[0]).resolve()
