"""A run as a sequence of passes, and which pairs each visits.

A pass is an epoch: a number that keys its draws, and its share of each source's pairs, planned as
one (``plan.py``). Without weights every pass visits every pair. A weight w in (0, 1] gives a source
the share w of its pairs, always as many; where one pass stopped in a keyed permutation of them, the
next goes on, so that with 0.5 every pair comes once in two passes. To visit a source more often
than the others, give the others less. Weight 0 leaves a source out.

A stage of a curriculum has weights of its own. Where it begins inside a pass, that pass ends and
a new one begins; what the old one has not visited of its share comes again when the source's
permutation comes round.

All of it is a function of the settings and of how many pairs each source has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lxmert_dist import keyed
from lxmert_dist.errors import ConfigError
from lxmert_dist.keyed import Purpose
from lxmert_dist.store import Split
from lxmert_dist.stream.plan import PairIndex, PlanSettings

Weights = Mapping[str, float]
"""By source; 1 where there is none."""


@dataclass(frozen=True)
class Share:
    """Pairs of one source, from a place in its permutation on, round and round."""

    source: str
    begin: int
    pairs: int


@dataclass(frozen=True)
class Pass:
    """One epoch of a run.

    ``number`` (from 0) keys its draws; it makes optimiser steps ``first_step`` to ``end``, without
    the latter, which may be fewer than its pairs allow.
    """

    number: int
    first_step: int
    steps: int
    shares: tuple[Share, ...]

    @property
    def end(self) -> int:
        """The step after its last."""
        return self.first_step + self.steps


def plan_passes(
    amounts: Mapping[str, int],
    stages: Sequence[tuple[int, Weights]],
    plan: PlanSettings,
    *,
    epochs: int = 0,
    max_steps: int = 0,
) -> tuple[Pass, ...]:
    """The passes of a run.

    Args:
        amounts: how many pairs each source has; the run visits no others.
        stages: first step and weights of each, from step 0 on.
        plan: how each pass is cut.
        epochs: passes at most; 0 sets no limit.
        max_steps: ends the last pass early; 0 sets no limit.

    Raises:
        ConfigError: a weight is of no source, or a stage has too few pairs for one step.
    """
    _check_names(amounts, stages)
    pairs = [_pairs(amounts, weights) for _, weights in stages]
    lengths = [_steps(plan, own, first) for own, (first, _) in zip(pairs, stages, strict=True)]
    stops = [first for first, _ in stages] + [max_steps]
    passes: list[Pass] = []
    places = dict.fromkeys(amounts, 0)
    step = 0
    while (not epochs or len(passes) < epochs) and (not max_steps or step < max_steps):
        stage = sum(first <= step for first, _ in stages) - 1
        steps = min([lengths[stage], *(stop - step for stop in stops if stop > step)])
        shares = tuple(
            Share(name, places[name] % amounts[name], own)
            for name, own in pairs[stage].items()
            if own
        )
        passes.append(Pass(len(passes), step, steps, shares))
        places = {name: place + pairs[stage][name] for name, place in places.items()}
        step += steps
    return tuple(passes)


def pairs_by_source(split: Split, sources: tuple[str, ...]) -> dict[str, int]:
    """How many pairs a split has of each of some sources (all, if none is named)."""
    table = split.sentences
    return {
        name: int(np.count_nonzero(table.source_ids == number))
        for number, name in enumerate(table.sources)
        if not sources or name in sources
    }


def whole_passes(index: PairIndex, plan: PlanSettings, number: int) -> tuple[Pass, ...]:
    """Some passes over every pair of an index.

    Raises:
        ConfigError: there are fewer pairs than one step takes.
    """
    return plan_passes({"": len(index)}, [(0, {})], plan, epochs=number)


def pairs_of_pass(split: Split, index: PairIndex, visited: Pass, seed: int) -> PairIndex:
    """The pairs that a pass visits: its shares of what ``index`` has of each source.

    Args:
        split: of the pairs.
        index: every pair of every source that the run reads.
        visited: the pass.
        seed: of the run; keys each source's permutation.
    """
    if sum(share.pairs for share in visited.shares) == len(index):
        return index
    table = split.sentences
    wanted = np.zeros(table.num_pairs, bool)
    for share in visited.shares:
        source = table.sources.index(share.source)
        own = np.flatnonzero(table.source_ids == source)
        if share.pairs < len(own):
            places = (share.begin + np.arange(share.pairs)) % len(own)
            own = own[keyed.permuted(places, len(own), seed, source, Purpose.SOURCE_ORDER)]
        wanted[own] = True
    pair_ids = np.flatnonzero(wanted).astype(np.int32)
    rows = table.image_rows.view(np.int32)[pair_ids]
    return PairIndex(pair_ids, rows, split.images_per_shard)


def _pairs(amounts: Mapping[str, int], weights: Weights) -> dict[str, int]:
    """How many pairs of each source a pass visits: at least one, unless it is off or empty."""
    return {
        name: min(amount, max(round(weights.get(name, 1.0) * amount), weights.get(name, 1.0) > 0))
        for name, amount in amounts.items()
    }


def _steps(plan: PlanSettings, pairs: Mapping[str, int], first_step: int) -> int:
    if not any(pairs.values()):
        raise ConfigError(
            f"data.curriculum: the stage at step {first_step} visits no pairs, since the weight of "
            f"every source ({', '.join(pairs)}) is 0; raise one, or leave the stage out"
        )
    try:
        return plan.steps_per_epoch(sum(pairs.values()))
    except ConfigError as error:
        where = f"data.curriculum, stage at step {first_step}: " if first_step else ""
        raise ConfigError(f"{where}{error}") from None


def _check_names(amounts: Mapping[str, int], stages: Sequence[tuple[int, Weights]]) -> None:
    unknown = sorted({name for _, weights in stages for name in weights} - set(amounts))
    if unknown:
        raise ConfigError(
            f"weights are given for {', '.join(unknown)}, but the sources that are read are "
            f"{', '.join(amounts)}; check data.source_weights, data.curriculum and data.sources"
        )
