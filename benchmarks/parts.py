"""What each part of the answer is worth: one-shot Dice of registration alone, of the head alone, of the whole without
its second, closer look, and of the whole; and seconds a query. On the pairs of pairs.json.

    python benchmarks/parts.py --weights WEIGHTS --output runs/parts.csv [--sets hippocampus …] [--pairs 8]

Goes on where it stopped: what --output holds is not run again.
"""

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from pairs import listed, read
from registration import rows, table

from app.service import Service
from iris_core import inference
from iris_core.case import Case
from iris_core.embeddings import TaskEmbedding

COLUMNS = "set", "pair", "method", "dice", "seconds"


def registration(service: Service, embedding: TaskEmbedding, query: Case) -> np.ndarray:
    return inference.carried_labels(service.checkpoint.model, embedding, query)


def head(service: Service, embedding: TaskEmbedding, query: Case) -> np.ndarray:
    return inference.segment(service.checkpoint.model, replace(embedding, shown=()), query)


def whole(service: Service, embedding: TaskEmbedding, query: Case) -> np.ndarray:
    return inference.segment(service.checkpoint.model, embedding, query)


def one_look(service: Service, embedding: TaskEmbedding, query: Case) -> np.ndarray:
    return inference.segment(service.checkpoint.model, embedding, query, closer=False)


PARTS = {part.__name__: part for part in (registration, head, one_look, whole)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--output", type=Path, required=True, help="a CSV with every pair")
    parser.add_argument("--sets", nargs="*", choices=listed(), default=list(listed()))
    parser.add_argument("--pairs", type=int, default=8, help="of a set, at most")
    arguments = parser.parse_args()
    if not arguments.output.exists():
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(",".join(COLUMNS) + "\n")
    service = Service(arguments.weights, "cpu")
    done = {(row["set"], int(row["pair"])) for row in rows(arguments.output)}
    work = [(name, i) for name in arguments.sets for i in range(min(arguments.pairs, len(listed()[name])))]
    for name, number in sorted(work, key=lambda w: w[1]):  # the first pair of every set, then the second
        if (name, number) in done:
            continue
        pair = read(name, number)
        embedding, found = service.encode(pair.reference), []
        for method, part in PARTS.items():
            started = time.perf_counter()
            labels = part(service, embedding, Case(pair.query.image, pair.query.affine, name=pair.query.name))
            seconds = time.perf_counter() - started
            found.append([name, number, method, f"{pair.dice(labels):.4f}", f"{seconds:.3f}"])
        with open(arguments.output, "a", newline="") as file:
            csv.writer(file).writerows(found)
    print(table(rows(arguments.output), list(PARTS)))


if __name__ == "__main__":
    main()
