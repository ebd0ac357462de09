"""What each idea that makes a step of ours quick is worth: ours against ours without it.

``uv run benchmarks/bench_ideas.py`` undoes one idea at a time, alternates such steps with whole
ones, and writes ``results/ideas.json`` and ``RESULTS.md``. A gain below 1 is a loss.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from bench_model import batch_of, peak_step_bytes
from contestants import Contestant, build
from lxmert_dist.model import attention, dropout, layers, linear
from lxmert_dist.schema import IGNORED, MicroBatch, ModelInputs
from record import log_to_mlflow, new_record, write_record
from report import render


@dataclass(frozen=True)
class Idea:
    """How to do without it: another batch, or other code."""

    name: str
    batch: Callable[[MicroBatch], MicroBatch] | None = None
    target: object = None
    attribute: str = ""
    instead: Callable[..., object] | None = None
    group: int = 1

    def at(self, target: object, attribute: str, instead: Callable[..., object]) -> "Idea":
        """With the code that takes its place."""
        return replace(self, target=target, attribute=attribute, instead=instead)

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Without the idea."""
        if self.target is None:
            yield
            return
        with patch.object(self.target, self.attribute, self.instead):
            yield


def padded(batch: MicroBatch) -> MicroBatch:
    """Every word piece of 20 a sentence, as in a padded batch."""
    inputs, targets = batch.inputs, batch.targets
    spare = 20 - inputs.attention_mask.shape[1]
    wide = ModelInputs.pack(
        functional.pad(inputs.padded_token_ids(), (0, spare)),
        functional.pad(inputs.attention_mask, (0, spare)),
        inputs.roi_features,
        inputs.boxes,
        inputs.image_index,
        multiple=20 * len(batch.pair_ids),
    )
    length = inputs.attention_mask.shape[1]
    moved = inputs.slots // length * 20 + inputs.slots % length
    return replace(
        batch,
        inputs=wide,
        targets=replace(targets, masked_tokens=moved[targets.masked_tokens]),
    )


def decoded_everywhere(batch: MicroBatch) -> MicroBatch:
    """All word pieces through the decoder, and so through the whole last layer."""
    targets = batch.targets
    labels = torch.full_like(batch.inputs.token_ids, IGNORED)
    labels[targets.masked_tokens] = targets.masked_lm
    rows = torch.arange(len(labels))
    return replace(batch, targets=replace(targets, masked_tokens=rows, masked_lm=labels))


def answered_everywhere(batch: MicroBatch) -> MicroBatch:
    """All pairs through the answer head."""
    targets = batch.targets
    labels = torch.full_like(targets.is_matched, IGNORED)
    labels[targets.questions] = targets.answer_ids
    rows = torch.arange(len(labels))
    return replace(batch, targets=replace(targets, questions=rows, answer_ids=labels))


def whole_last_layer(self, *args, word_rows=None, object_rows=None, **options):
    """All rows of the last cross layer, of which the heads then take theirs."""
    language, vision = CROSS(self, *args, **options)
    return language if word_rows is None else language.index_select(0, word_rows), vision


def unshared_first_layer(self, language, vision, words, objects, *, image_index=None, **options):
    """Images are copied before the first cross layer projects them."""
    if image_index is not None:
        vision = attention.spread(vision, objects.length, image_index)
    return CROSS(self, language, vision, words, objects, **options)


def fused_attention(query, key, value, mask, drop):
    """The fused kernel of CPUs."""
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if mask is None else mask[:, None, None, :],
        dropout_p=drop.p if drop.training else 0.0,
    )


def plain_dropout(self, hidden: Tensor) -> Tensor:
    """What torch has."""
    return functional.dropout(hidden, self.p, self.training)


def kept_activation(self, rows: Tensor) -> Tensor:
    """GELU(x) is kept for the backward pass beside x."""
    return linear.linear(functional.gelu(rows), self.weight, self.bias)


CROSS_ENCODER = layers.CrossModalityEncoder
CROSS = CROSS_ENCODER.forward
IDEAS = (
    Idea("no padded word piece", padded),
    Idea("decoder and last layer at masked words only", decoded_everywhere),
    Idea("last cross layer: word pieces that are read").at(
        CROSS_ENCODER, "forward", whole_last_layer
    ),
    Idea("answer head where there is an answer", answered_everywhere),
    Idea("products by oneDNN").at(linear, "product", functional.linear),
    Idea("dropout from 16 bits an element").at(dropout.Dropout, "forward", plain_dropout),
    Idea("attention spelt out, not the fused CPU kernel").at(attention, "_mix", fused_attention),
    Idea("GELU computed again in the backward pass").at(
        linear.ActivatedLinear, "forward", kept_activation
    ),
    Idea("first cross layer projects an image once (k = 4)", group=4).at(
        CROSS_ENCODER, "forward", unshared_first_layer
    ),
)


def main() -> None:
    """Measure every idea in every precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), nargs="+", default=["fp32", "bf16"]
    )
    parser.add_argument("--batch", type=int, default=32, help="pairs of a step (default 32)")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each (default 5)")
    parser.add_argument("--smoke", action="store_true", help="a tiny model; nothing is written")
    arguments = parser.parse_args()
    record = new_record("ideas", device=arguments.device)
    record["title"] = "What each idea is worth"
    record["columns"] = ["idea", "precision", "CPU time without it", "step memory without it"]
    record["about"] = (
        f"`uv run benchmarks/bench_ideas.py`, {record['date']}, {record['machine']}: a step of ours"
        f" without the idea over one with it, so above 1 the idea wins; median of "
        f"{arguments.rounds} rounds, batch {arguments.batch}, 9/5/5, dropout 0.1."
    )
    record["rows"] = []
    for precision in arguments.precision:
        settings = argparse.Namespace(
            **{**vars(arguments), "precision": precision, "dropout": 0.1},
            compile=False,
            checkpointing=False,
        )
        runner = build("ours", settings)
        batches = {group: batch_of(settings, group) for group in (1, 4)}
        for idea in tqdm(IDEAS, desc=precision, unit="idea"):
            gain, memory = worth(idea, runner, batches[idea.group], arguments.rounds)
            record["rows"].append([idea.name, precision, f"{gain:.3f}", f"{memory:.3f}"])
    if not arguments.smoke:
        write_record(record)
        render()
        gains = {f"{idea} {precision}": float(gain) for idea, precision, gain, _ in record["rows"]}
        log_to_mlflow(record, gains)
    print("\n".join(" | ".join(row) for row in record["rows"]))


def worth(idea: Idea, runner: Contestant, batch: MicroBatch, rounds: int) -> tuple[float, float]:
    """Time and step memory without the idea over those with it."""
    other = idea.batch(batch) if idea.batch else batch
    ratios = []
    for number in itertools.count(-1):
        if number == rounds:
            break
        whole = seconds(runner, batch)
        with idea.undone():
            without = seconds(runner, other)
        if number >= 0:
            ratios.append(without / whole)
    memory = peak_step_bytes(runner, batch)
    with idea.undone():
        return statistics.median(ratios), peak_step_bytes(runner, other) / memory


def seconds(runner: Contestant, batch: MicroBatch) -> float:
    """Of one step: CPU time of all threads, which a busy machine does not stretch, or a GPU's."""
    clock = time.perf_counter if runner.device.type == "cuda" else time.process_time
    started = clock()
    runner.step(batch)
    runner.wait()
    return clock() - started


if __name__ == "__main__":
    main()
