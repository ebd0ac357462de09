"""What a conversion says of itself: a model card for people, ``conversion.json`` for programs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lxmert_dist.interop.hugging_face import CLASSES, EPS
from lxmert_dist.interop.probe import LIMIT, largest
from lxmert_dist.interop.target import Format
from lxmert_dist.redact import redact
from lxmert_dist.tasks.transfer import answer_line
from lxmert_dist.tasks.weights import Description

REPORT, CARD = "conversion.json", "README.md"


@dataclass(frozen=True)
class Conversion:
    """What was converted, and how well."""

    label: str
    to: Format
    description: Description
    num_tensors: int
    """In the source, under its names."""
    num_parameters: int
    """In the source; the tied decoder counts once."""
    num_written: int
    """Parameters of the export, whose answer head may have other rows."""
    dropped: tuple[str, ...]
    heads_assumed: bool
    """Nothing said how many attention heads there are."""
    tokenizer: str
    """Where it is from; empty where there is none."""
    differences: Mapping[str, float]
    """By output, relative to its largest value."""
    as_opened: Mapping[str, float] | None = None
    """The same where the program uses the eps that it has built in; None where that is ours."""
    missing_answers: Sequence[str] | None = None
    """Of a head in a new order: answers whose row is zero; None where the order is as it was."""

    def lines(self) -> Iterator[str]:
        """The report for people."""
        model = self.description.model
        yield (
            f"recognised  {self.label}: {self.num_tensors} tensors, "
            f"{self.num_parameters:,} parameters"
        )
        assumed = " (assumed; --num-heads says otherwise)" if self.heads_assumed else ""
        yield (
            f"model       {_depths(self.description)} layers, width {model.hidden_size}, "
            f"{model.num_heads} heads{assumed}"
        )
        if self.dropped:
            yield f"left out    {len(self.dropped)} tensors, such as {self.dropped[0]}"
        yield from (f"answers     {line}" for line in self._answers())
        yield f"tokenizer   {self.tokenizer or 'none is included; give one with --tokenizer DIR'}"
        if self.as_opened:
            name, worst = largest(self.as_opened)
            yield (
                f"note        trained with layer_norm_eps={model.layer_norm_eps:g}; opened with "
                f"the built-in {EPS:g}, it differs by up to {worst:.1e} ({name}): see the card"
            )
        name, worst = largest(self.differences)
        yield (
            f"difference  at most {worst:.1e} of the largest value ({name}), on a fixed input; "
            f"the limit is {LIMIT:.0e}"
        )

    def _answers(self) -> Iterator[str]:
        rows = self.description.sizes.get("num_answers", 0)
        if not rows:
            return
        if self.missing_answers is not None:
            found = rows - len(self.missing_answers)
            yield answer_line(found, self.missing_answers).removeprefix("answers: ")
        elif self.description.answers:
            yield f"{rows} rows, named"
        else:
            yield (
                f"{rows} rows without names: the head cannot be taken over by a run until "
                "--answers FILE says which they are"
            )


def write(conversion: Conversion, folder: Path) -> None:
    """Write the card and the report."""
    tree = {
        "source": conversion.label,
        "to": conversion.to,
        "tensors": conversion.num_tensors,
        "parameters": conversion.num_written,
        "left_out": list(conversion.dropped),
        "tokenizer": bool(conversion.tokenizer),
        "missing_answers": conversion.missing_answers and list(conversion.missing_answers),
        "differences": dict(conversion.differences),
        "differences_with_built_in_eps": conversion.as_opened and dict(conversion.as_opened),
        "limit": LIMIT,
    }
    text = json.dumps(tree, indent=1, ensure_ascii=False)
    (folder / REPORT).write_text(redact(text) + "\n", "utf-8")
    (folder / CARD).write_text(redact("\n".join(_card(conversion))) + "\n", "utf-8")


def _card(conversion: Conversion) -> Iterator[str]:
    description = conversion.description
    name, worst = largest(conversion.differences)
    yield "---"
    if conversion.to == "huggingface":
        yield "library_name: transformers"
    yield "tags: [lxmert, vision-language]"
    yield "---"
    yield "# LXMERT"
    yield ""
    yield (
        f"Converted by lxmert_dist from {conversion.label}"
        + (f" ({description.source})." if description.source else ".")
    )
    yield (
        f"{_depths(description)} layers, width {description.model.hidden_size}, "
        f"{description.model.num_heads} heads, {conversion.num_written:,} parameters; "
        f"kind: {description.kind}."
    )
    yield ""
    yield "```"
    yield from _usage(conversion)
    yield "```"
    yield ""
    if conversion.as_opened:
        yield (
            f"- Trained with layer_norm_eps={conversion.description.model.layer_norm_eps:g}: with "
            f"the built-in {EPS:g} the outputs differ by up to "
            f"{largest(conversion.as_opened)[1]:.1e} of the largest value."
        )
    yield from (f"- Answers: {line}." for line in conversion._answers())
    yield f"- Tokenizer: {'included' if conversion.tokenizer else 'not included'}."
    yield "- Inputs: RoI features as the detector gives them; boxes x1, y1, x2, y2 in [0, 1]."
    if description.detector:
        yield f"- Trained on regions of: {description.detector}."
    if description.max_tokens:
        yield f"- Longest sentence: {description.max_tokens} tokens, with [CLS] and [SEP]."
    yield (
        f"- Self-check: on a fixed input the outputs are those of the source to {worst:.1e} of "
        f"the largest value (worst: {name})."
    )
    yield (
        "- Licence and training data are those of the source. LXMERT: Tan and Bansal, EMNLP 2019, "
        "arXiv 1908.07490."
    )


def _usage(conversion: Conversion) -> Iterator[str]:
    """How the weights are opened."""
    kind = conversion.description.kind
    match conversion.to:
        case "huggingface":
            yield f"from transformers import {CLASSES[kind]}"
            yield f'model = {CLASSES[kind]}.from_pretrained("this/directory")'
            if conversion.as_opened:
                yield "for module in model.modules():  # trained so; 1e-12 is built in"
                yield "    if isinstance(module, torch.nn.LayerNorm):"
                yield f"        module.eps = {conversion.description.model.layer_norm_eps:g}"
        case "lxmert" if kind in ("pretraining", "backbone"):
            yield "# the released code adds _LXRT.pth itself; both files hold the same tensors"
            yield "python src/tasks/vqa.py --loadLXMERTQA this/directory/model ..."
        case "lxmert":
            yield "# the released code adds .pth itself; both files hold the same tensors"
            yield "python src/tasks/vqa.py --load this/directory/BEST ..."
        case "lxmert_dist":
            yield "uv run launch/pretrain.py --set init=this/directory"
            yield "uv run launch/finetune.py --set init=this/directory"
            if conversion.description.answers:
                yield "uv run launch/predict.py --from this/directory --image FILE --question TEXT"


def _depths(description: Description) -> str:
    model = description.model
    if description.partial:
        return f"{model.num_language_layers} language"
    return f"{model.num_language_layers}/{model.num_relationship_layers}/{model.num_cross_layers}"
