"""Iris beside what people use, in one run on one machine: one-shot and with three references, its registration alone,
ANTs SyN, greedy and ConvexAdam, on the same pairs (pairs.json); and on the paper's job the seconds of UniverSeg and
Neuroverse3D, too.

    pip install '.[bench]'
    python benchmarks/peers.py --output runs/peers [--weights iris-small] [--sets hippocampus …] [--pairs 8]
    python benchmarks/peers.py --output runs/peers --pairs 0 --universeg FOLDER --neuroverse3d FOLDER

**The released weights were trained on these sets**, and on some of the very scans: the table says so of each set. What
SyN, greedy, ConvexAdam and Iris' registration alone find is learnt from nothing. To compare what is not learnt either,
give --weights that never saw the set (leave_out.py trains them).

Seconds a pair are of everything: of Iris to encode the references and to segment the query, of the others to register
and to carry the mask. Intervals: 95 %, by the bootstrap over pairs. Three references: those of the pair and two more
subjects of the set; where it has too few, the cell says so. Goes on where it stopped: what the folder --output holds is
not run again. Sets of tumours are left out unless they are named: registrations do not find them.

The paper's job: one reference, ten queries of 128³, fifteen classes. Iris does all of it. The others take one class at
a time, UniverSeg one slice at a time too; a pass of theirs is measured and multiplied, as is printed. Their code comes
from a folder (a checkout of JJGO/UniverSeg, of jiesihu/Neuroverse3D); random weights take as long as trained ones.
UniverSeg is shown one slice, the least that it takes: it was trained to be shown up to 64. With one thread the seconds
of this job are the CPU's, so that other work on the machine counts less.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import one_shot
import references
import registration  # before torch begins: it sets how many threads the others take
import torch
from held_out import Pair
from pairs import TUMOURS, listed, several
from record import clock, keep, record
from results import interval, measure_all, rows

from app.service import Service
from iris_core import checkpoint
from iris_core.case import Case
from iris_core.inference import carried_labels
from weights import find_weights

METHODS = {
    "one": "Iris, one reference",
    "three": "Iris, three",
    "alone": "Iris' registration alone",
    "syn": "SyN",
    "greedy": "greedy",
    "convexadam": "ConvexAdam",
}
QUERIES, CLASSES, EDGE = 10, 15, 128  # the paper's job
LEAST, MOST = 10.0, 30  # seconds that passes of one kind are repeated for; of them, at most


def measure(service: Service, name: str, number: int) -> dict[str, tuple[float, float]]:
    """Every method on one pair: the same scans for all, painted ones too."""
    wanted = 3 if name in references.SETS else 1  # in other sets a pair is a kind of its own
    query, *shown = several(name, number, wanted)
    pair, asked = Pair(shown[0], query), Case(query.image, query.affine, name=query.name)
    tried: dict[str, Callable] = {
        "one": lambda: service.segment(service.encode(shown[0]), asked),
        "alone": lambda: carried_labels(service.checkpoint.model, service.encode(shown[0]), asked),
    }
    if len(shown) == 3:
        tried["three"] = lambda: service.segment(service.encode(*shown), asked)
    found = {}
    for method, run in tried.items():
        started = time.perf_counter()
        labels = run()
        found[method] = pair.dice(labels), time.perf_counter() - started
    opponents = {m: registration.measured(m, pair, f"{name} {number}")[:2] for m in registration.OPPONENTS}
    print(f"{name} {number}: " + ", ".join(f"{m} {d:.3f}" for m, (d, _) in (found | opponents).items()), flush=True)
    return found | opponents


def seen(training: dict, name: str, numbers: list[int]) -> str:
    """What training saw of a set: of the datasets, and of the queries themselves."""
    datasets, cases = training.get("datasets", {}), [listed()[name][i][1].split("/") for i in numbers]
    known = [(datasets.get(folder) or datasets.get(f"label_maps_{folder}"), case) for folder, case in cases]
    if not any(split for split, _ in known):
        return "no"
    return f"set; {sum(case in split['train'] for split, case in known if split)} of {len(known)} queries"


def table(results: list[dict[str, str]], training: dict) -> str:
    """Dice of each method on each set, seconds, and differences on the same pairs. As Markdown."""
    found: dict[str, dict[str, dict[str, tuple[float, float]]]] = {m: {} for m in METHODS}  # method → set → pair
    for row in results:
        found[row["method"]].setdefault(row["set"], {})[row["pair"]] = float(row["dice"]), float(row["seconds"])
    sets, said = list(found["one"]), [_line("Dice", "seen in training", "pairs", *METHODS.values()), "|---" * 9 + "|"]
    for s in sets:
        scores = [[d for d, _ in of_set[s].values()] if s in of_set else [] for of_set in found.values()]
        known = seen(training, s, [int(pair) for pair in found["one"][s]])
        said.append(_line(s, known, len(scores[0]), *(_mean([v]) if v else "too few subjects" for v in scores)))
    scores = [[[d for d, _ in pairs.values()] for pairs in of_set.values()] for of_set in found.values()]
    fewer = [f" ({len(v)} sets)" * (len(v) < len(sets)) for v in scores]
    means = [_mean(v) + note if v else "" for v, note in zip(scores, fewer, strict=True)]
    said += [
        _line("**mean of sets**", "", "", *means),
        "",
        "One reference of Iris, less the other, on the same pairs:",
        "",
    ]
    for m, called in METHODS.items():
        less = [[found["one"][s][i][0] - d for i, (d, _) in pairs.items()] for s, pairs in found[m].items()]
        said += [f"- {called}: {_mean(less)}, sets: {len(less)}"] * (m != "one" and bool(less))
    said += ["", _line("seconds a pair", *METHODS.values()), "|---" * 7 + "|"]
    for s in sets:
        times = [[t for _, t in of_set[s].values()] if s in of_set else [] for of_set in found.values()]
        said.append(_line(s, *(f"{statistics.mean(v):.1f}" if v else "" for v in times)))
    return "\n".join(said)


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _mean(groups: Sequence[Sequence[float]]) -> str:
    low, high = interval(groups)
    return f"{statistics.mean(map(statistics.mean, groups)):.3f} ({low:.3f} to {high:.3f})"


def universeg(folder: Path) -> dict[str, tuple[Callable[[], object], float]]:
    """What is measured → a pass, and how many of them the job takes."""
    sys.path.insert(0, str(folder))
    from universeg import universeg as build

    model, passes = build(pretrained=False).eval(), {}
    for batch in (1, 8):
        slices, masks = torch.rand(batch, 1, EDGE, EDGE), (torch.rand(batch, 1, 1, EDGE, EDGE) > 0.5).float()

        def one_pass(slices: torch.Tensor = slices, masks: torch.Tensor = masks) -> object:
            return model(slices, slices[:, None], masks)

        passes[f"UniverSeg, {batch} slice{'s' * (batch > 1)} a pass"] = one_pass, QUERIES * EDGE * CLASSES / batch
    return passes


def neuroverse3d(folder: Path) -> dict[str, tuple[Callable[[], object], float]]:
    """The same; the sizes are those of its README and config.py."""
    sys.path.insert(0, str(folder))
    from neuroverse3D.models.neuroverse3D import Neuroverse3D

    widths = [32, 64, 128, 256, 512]
    model = Neuroverse3D(1, 1, len(widths), 3, widths, 2).eval()
    scan = torch.rand(1, 1, EDGE, EDGE, EDGE)
    mask = (torch.rand(1, 1, 1, EDGE, EDGE, EDGE) > 0.5).float()
    return {"Neuroverse3D": (lambda: model(scan, scan[:, None], mask), QUERIES * CLASSES)}


PEERS = {"universeg": universeg, "neuroverse3d": neuroverse3d}


@torch.inference_mode()
def speed(folders: dict[str, Path]) -> str:
    """Seconds of the paper's job, as Markdown."""
    kind_of = "cpu" if torch.get_num_threads() == 1 else "total"  # as of clock
    before = one_shot.measure("small", CLASSES, QUERIES)[kind_of]
    measured = []
    for peer, folder in folders.items():
        for what, (one_pass, times) in PEERS[peer](folder).items():
            for kind in ("float32", "bfloat16"):
                with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bfloat16"):
                    taken = passes(one_pass)
                print(f"{what}, {kind}: " + ", ".join(f"{t:.3f}" for t in taken) + " s", flush=True)
                measured.append((what, kind, statistics.median(taken), len(taken), times))
    after = one_shot.measure("small", CLASSES, QUERIES)[kind_of]  # what else runs on the machine changes
    iris = (before + after) / 2
    lines = [
        f"One reference, {QUERIES} queries of {EDGE}³, {CLASSES} classes; threads: {torch.get_num_threads()}.",
        "",
        "| | precision | a pass, s | passes measured | passes that the job takes | the job, s | Iris' × |",
        "|---|---|---|---|---|---|---|",
        f"| Iris, the whole job, before and after | its own | | | | {before:.0f} and {after:.0f} | 1 |",
    ]
    for what, kind, seconds, n, times in measured:
        job = f"{seconds * times:.0f}, multiplied up | {seconds * times / iris:.0f}"
        lines.append(f"| {what} | {kind} | {seconds:.3f} | {n} | {times:.0f} | {job} |")
    return "\n".join(lines)


def passes(one_pass: Callable[[], object]) -> list[float]:
    """Seconds of each of several passes; the first of several only prepares and is left out."""
    taken: list[float] = []
    while len(taken) < 2 or (sum(taken) < LEAST and len(taken) < MOST):
        started = clock()
        one_pass()
        taken.append(clock() - started)
    return taken[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="a folder, for pairs.csv, table.md and speed.md")
    parser.add_argument("--weights", default="iris-small")
    parser.add_argument("--sets", nargs="*", choices=listed(), default=[s for s in listed() if s not in TUMOURS])
    parser.add_argument("--pairs", type=int, default=8, help="of a set, at most; 0: only the speed")
    parser.add_argument("--universeg", type=Path, metavar="FOLDER", help="its code: its speed is measured, too")
    parser.add_argument("--neuroverse3d", type=Path, metavar="FOLDER", help="the same")
    arguments = parser.parse_args()
    torch.set_num_threads(int(registration.threads))
    if arguments.pairs:
        pairs = arguments.output / "pairs.csv"
        measure_all(arguments.weights, pairs, arguments.sets, arguments.pairs, measure)
        training = checkpoint.load(find_weights(arguments.weights), torch.device("cpu")).training
        keep(arguments.output / "table.md", table(rows(pairs), training))
    else:
        record(arguments.output, arguments.weights)
    if folders := {name: getattr(arguments, name) for name in PEERS if getattr(arguments, name)}:
        keep(arguments.output / "speed.md", speed(folders))


if __name__ == "__main__":
    main()
