"""Evaluation as the paper does it: validation cases are queries, references are drawn at random, again and again."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from iris_core.case import Case, InputError, LabelClass
from iris_core.evaluation.metrics import dice, surface_dice
from iris_core.inference import segment
from iris_core.strategies import STRATEGIES, Context


@dataclass(frozen=True)
class Draw:
    """References drawn together, and the queries that they serve. Names of cases."""

    references: tuple[str, ...]
    queries: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """One query with the references of one draw. dice, surface_dice: class name → value, None where neither mask has
    the class. Both are empty if the references showed nothing: then nothing was asked, and seconds is 0.
    """

    query: str
    references: tuple[str, ...]
    dice: dict[str, float | None]
    surface_dice: dict[str, float | None]
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


def draw_pools(
    cases: dict[str, str], queries: list[str], pool: list[str], size: int, draws: int, seed: int
) -> list[Draw]:
    """``draws`` random subsets of a pool, each for all queries. Raises InputError where a patient is on both sides, or
    the pool is smaller than asked."""
    torn = {cases[c] for c in queries} & {cases[c] for c in pool}
    if torn:
        raise InputError(f"a pool must hold other patients than the queries, both hold {sorted(torn)[:5]}")
    if not 0 < size <= len(pool):
        raise InputError(f"a pool must have 1 to {len(pool)} cases, got {size}")
    rng = np.random.default_rng(seed)
    repeats = 1 if size == len(pool) else draws  # the whole pool is always the same
    return [Draw(tuple(map(str, rng.choice(pool, size, replace=False))), tuple(queries)) for _ in range(repeats)]


def leave_one_out(cases: dict[str, str], at_most: int, seed: int) -> list[Draw]:
    """Each of at most so many random cases as the query of the others, patient against patient.

    Raises InputError where there are not two patients.
    """
    patients = sorted(set(cases.values()))
    if len(patients) < 2 or at_most < 2:
        raise InputError(
            f"leaving one out takes references of two patients at least, got {patients[:5]} and at most {at_most} cases"
        )
    chosen: list[str] = []
    while len({cases[c] for c in chosen}) < 2:
        chosen = np.random.default_rng(seed).permutation(sorted(cases))[:at_most].tolist()
        seed += 1
    draws = [Draw(tuple(c for c in chosen if cases[c] != cases[query]), (query,)) for query in chosen]
    return [draw for draw in draws if draw.references]


def evaluate(
    strategy: str, context: Context, read: Callable[[str], Case], draws: list[Draw], tolerance_mm: float | None
) -> Iterator[Score]:
    """Scores, draw by draw. context: all but the references.

    tolerance_mm: of the surface distance, which is left out for None. seconds: what a query takes, without its share of
    encoding the references.
    """
    for draw in draws:
        shown = [case for case in map(read, draw.references) if case.present()]
        if not shown and draw.references:
            yield from (Score(query, draw.references, {}, {}, 0.0) for query in draw.queries)
            continue
        plan = STRATEGIES[strategy](replace(context, references=shown))
        for name in draw.queries:
            asked = read(name)
            started = time.perf_counter()
            embedding = plan(asked).embedding
            predicted = segment(context.model, embedding, asked)
            seconds = time.perf_counter() - started
            valid = None if asked.ignore is None else asked.labels != asked.ignore
            classes = {c.name: c for c in asked.classes}
            overlap, surface = {}, {}
            for key, value in zip(embedding.names, embedding.values, strict=True):
                c = classes[key.split("/", 1)[1] if context.classes else key]
                found = _written(c, asked, predicted) if embedding.overlapping else predicted == value
                truth = c.mask(asked.labels)
                overlap[c.name] = dice(found, truth, valid)
                if tolerance_mm is not None:
                    surface[c.name] = surface_dice(found, truth, asked.spacing_mm, tolerance_mm, valid)
            yield Score(name, draw.references, overlap, surface, seconds)


def _written(wanted: LabelClass, case: Case, predicted: np.ndarray) -> np.ndarray:
    """Where a label map of overlapping regions shows one: the values of all regions inside it."""
    return np.isin(predicted, [c.value for c in case.classes if set(c.members) <= set(wanted.members)])


def summarise(scores: list[Score]) -> dict:
    """mean_dice and mean_surface_dice (means over classes, None without any), and per_class: mean and standard
    deviation of both, number of values."""
    per_class = {}
    for name in sorted({name for score in scores for name in score.dice}):
        of_class = {
            key: [values[name] for s in scores if (values := getattr(s, key)).get(name) is not None]
            for key in ("dice", "surface_dice")
        }
        if of_class["dice"]:
            per_class[name] = {"n": len(of_class["dice"])}
            for key, values in of_class.items():
                if values:
                    per_class[name] |= {f"{key}_mean": float(np.mean(values)), f"{key}_std": float(np.std(values))}
    means = {}
    for key in ("dice", "surface_dice"):
        values = [c[f"{key}_mean"] for c in per_class.values() if f"{key}_mean" in c]
        means[f"mean_{key}"] = float(np.mean(values)) if values else None
    return means | {"per_class": per_class}
