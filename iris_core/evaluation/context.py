"""Does a model look at its reference? Right and wrong references for the same queries: one that ignores them shows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from iris_core.case import Case, LabelClass
from iris_core.evaluation.metrics import dice
from iris_core.inference import segment
from iris_core.strategies import STRATEGIES, Context

RIGHT, OTHER = "the structure", "another structure of the scan"
MOVED, SHUFFLED = "its mask, moved by half the scan", "another patient, its mask shuffled"
FINDS = 0.1  # mean Dice: with less, there is nothing to compare
FOLLOWS, IGNORES = 0.25, 0.75  # share of the right reference's Dice that the best wrong one keeps


@dataclass(frozen=True)
class Trial:
    """One structure asked of one query. row: what the reference showed. dice: with the structure that was asked.

    dice_shown: with the one that was shown instead (row OTHER). None where neither mask has the structure.
    """

    row: str
    query: str
    reference: str
    name: str
    dice: float | None
    dice_shown: float | None = None


def context_test(
    context: Context,
    read: Callable[[str], Case],
    pairs: list[tuple[str, str]],
    patients: dict[str, str],
    pool: list[str],
    seed: int,
) -> Iterator[list[Trial]]:
    """The trials of each pair (reference, query), of every structure that both show.

    context: all but the references. patients: case → patient. pool: cases that another patient's scan is drawn from;
    where it has no third patient, the reference's own scan is shown with the shuffled mask.
    """
    rng = np.random.default_rng(seed)
    for reference, query in pairs:
        others = [name for name in pool if patients[name] not in (patients[reference], patients[query])]
        shown, asked = read(reference), read(query)
        stranger = read(str(rng.choice(others))) if others else shown
        there = {c.name for c in asked.present()}
        trials = []
        for c in (c for c in shown.present() if c.name in there):
            for row, case, instead in _references(shown, stranger, c, rng):
                embedding = STRATEGIES["one_shot"](replace(context, references=[case]))(asked).embedding
                found = segment(context.model, embedding, asked) != 0
                valid = None if asked.ignore is None else asked.labels != asked.ignore
                values = [dice(found, k.mask(asked.labels), valid) if k else None for k in (c, instead)]
                trials.append(Trial(row, query, case.name, c.name, *values))
        yield trials


def _references(
    shown: Case, stranger: Case, asked: LabelClass, rng: np.random.Generator
) -> Iterator[tuple[str, Case, LabelClass | None]]:
    """What is shown instead of one structure: row, reference, and the structure that it shows if it is another."""
    mask = asked.mask(shown.labels)
    yield RIGHT, _with_mask(shown, mask), None
    present = shown.present()
    start = present.index(asked)
    for other in (*present[start + 1 :], *present[:start]):
        theirs = other.mask(shown.labels)
        if not (theirs & mask).any():  # regions may lie within one another
            yield OTHER, _with_mask(shown, theirs), other
            break
    yield MOVED, _with_mask(shown, np.roll(mask, [n // 2 for n in mask.shape], (0, 1, 2))), None
    theirs = asked.mask(stranger.labels)
    voxels = int(theirs.sum()) or max(1, round(mask.mean() * theirs.size))
    shuffled = np.zeros(theirs.size, bool)
    shuffled[rng.choice(theirs.size, voxels, replace=False)] = True
    yield SHUFFLED, _with_mask(stranger, shuffled.reshape(theirs.shape)), None


def _with_mask(case: Case, mask: np.ndarray) -> Case:
    return replace(case, labels=mask.astype(np.int32), classes=(LabelClass("shown", 1, (1,)),), ignore=None)


def summarise_context(trials: list[Trial]) -> list[dict]:
    """A row each: mean Dice over structures, per_class, n, and mean_dice_shown where another structure was shown."""
    rows = []
    for row in dict.fromkeys(t.row for t in trials):
        mine = [t for t in trials if t.row == row]
        per_class = {name: _mean([t.dice for t in mine if t.name == name]) for name in sorted({t.name for t in mine})}
        summary = {"reference_shows": row, "mean_dice": _mean(list(per_class.values())), "per_class": per_class}
        shown = _mean([t.dice_shown for t in mine])
        rows.append(summary | ({} if shown is None else {"mean_dice_shown": shown}) | {"n": len(mine)})
    return rows


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def verdict(rows: list[dict]) -> str:
    """What the rows of ``summarise_context`` say of the model, in a sentence."""
    dices = {row["reference_shows"]: row["mean_dice"] or 0.0 for row in rows}
    right = dices.pop(RIGHT)
    if right < FINDS:
        return f"no verdict: even the right reference finds nothing (mean Dice {right:.3f})"
    worst, value = max(dices.items(), key=lambda item: item[1])
    share = f"{value / right:.0%} of the right one's Dice ({value:.3f} of {right:.3f})"
    kept = f"the best wrong reference ({worst}) keeps {share}"
    if value < FOLLOWS * right:
        return f"it looks at its reference: {kept}"
    if value < IGNORES * right:
        return f"it looks at its reference in part: {kept}"
    return f"it ignores its reference: {kept}"
