"""One-shot evaluation: each validation case is the query, with random references of other patients."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from iris_core.case import Case, LabelClass
from iris_core.evaluation.metrics import dice
from iris_core.inference import segment
from iris_core.model.iris import Iris
from iris_core.strategies import Given
from iris_core.strategies.one_shot import one_shot


@dataclass(frozen=True)
class Score:
    """One query with one reference. dice: class name → Dice, None where neither mask has the class.

    Empty if the reference showed nothing: then nothing was asked, and seconds is 0.
    """

    query: str
    reference: str
    dice: dict[str, float | None]
    seconds: float


def draw_pairs(
    cases: dict[str, str], queries: list[str], pool: list[str], draws: int, seed: int
) -> list[tuple[str, str]]:
    """(reference, query): ``draws`` references a query, of other patients, without repetition while they last.

    cases: case → patient. A query whose pool holds no other patient is left out.
    """
    rng = np.random.default_rng(seed)
    pairs = []
    for query in queries:
        others = [case for case in pool if cases[case] != cases[query]]
        rounds = [rng.permutation(others) for _ in range(-(-draws // len(others)))] if others else []
        pairs += [(str(reference), query) for reference in itertools.islice(itertools.chain(*rounds), draws)]
    return pairs


def evaluate_one_shot(
    model: Iris,
    read: Callable[[str], Case],
    pairs: list[tuple[str, str]],
    scheme: str | None = None,
    grid: str = "auto",
) -> Iterator[Score]:
    """Scores in the order of ``pairs``. seconds: decoding the query, its encoding included, the reference's not."""
    for reference, query in pairs:
        shown, asked = read(reference), read(query)
        classes = shown.present()
        if not classes:
            yield Score(query, reference, {}, 0.0)
            continue
        embedding = one_shot(Given(model, [shown], grid=grid, scheme=scheme))(asked).embedding
        started = time.perf_counter()
        predicted = segment(model, embedding, asked)
        seconds = time.perf_counter() - started
        valid = None if asked.ignore is None else asked.labels != asked.ignore
        scores = {c.name: dice(_written(c, shown, predicted), c.mask(asked.labels), valid) for c in classes}
        yield Score(query, reference, scores, seconds)


def _written(wanted: LabelClass, case: Case, predicted: np.ndarray) -> np.ndarray:
    """Where the label map shows a class: its value, or for a region the values of all classes inside it."""
    return np.isin(predicted, [c.value for c in case.classes if set(c.members) <= set(wanted.members)])


def summarise(scores: list[Score]) -> dict:
    """mean_dice (the mean over classes, None without any) and per_class: mean, standard deviation, number of values."""
    per_class = {}
    for name in sorted({name for score in scores for name in score.dice}):
        values = [s.dice[name] for s in scores if s.dice.get(name) is not None]
        if values:
            per_class[name] = {
                "dice_mean": float(np.mean(values)),
                "dice_std": float(np.std(values)),
                "n": len(values),
            }
    means = [c["dice_mean"] for c in per_class.values()]
    return {"mean_dice": float(np.mean(means)) if means else None, "per_class": per_class}
