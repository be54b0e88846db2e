"""How near encode, register and decode come to what this machine can do at all: a roofline.

    python benchmarks/roofline.py --output runs/roofline [--preset small] [--repeats 3]

The ceilings are measured: operations a second of a product of matrices, in float32 and in bfloat16; bytes a second of a
large copy, read and written. Then each part, on one query of 128³ with one class and with fifteen: its operations and
bytes are counted while it runs, operation of PyTorch by operation. Convolutions and products of matrices are counted by
PyTorch's own counter, of everything else one operation an element. Bytes: each operation reads its inputs and weights
once and writes its result once, which is the least for code that runs one after the other. What NumPy does
(intensities, order of axes) is in the seconds and not in the counts.

An operation takes no less than its operations at the ceiling of its precision, and no less than its bytes at the
ceiling of the memory. The sum of that is "at best", and its share of the seconds is what is reached. What stays in the
processor's cache beats the memory's ceiling: a share is not bounded by 1. With one thread (OMP_NUM_THREADS=1) seconds
are the CPU's, so that other work on the machine counts less.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from one_shot import job
from record import clock, keep, record
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from iris_core.geometry import WorkingGrid, oriented
from iris_core.inference import segment, window_logits
from iris_core.intensity import normalise
from iris_core.registration import Scan, register
from iris_core.strategies.one_shot import one_shot

MATRIX, COPIED = 3072, 2**28  # edge; bytes
IMPLICIT = torch._C.DispatchKey.CompositeImplicitAutograd


@dataclass(frozen=True)
class Ceilings:
    float32: float  # operations a second
    bfloat16: float
    memory: float  # bytes a second


@dataclass
class Count(TorchDispatchMode):
    """Of what runs inside: for each operation its name, operations, bytes, and whether it is in bfloat16."""

    done: list[tuple[str, float, float, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs, packet = kwargs or {}, operation._overloadpacket
        if packet not in flop_registry and torch._C._dispatch_has_kernel_for_dispatch_key(operation.name(), IMPLICIT):
            with self:  # made of others, which are counted instead
                return operation.decompose(*args, **kwargs)
        found = operation(*args, **kwargs)
        read, written = ([t for t in tree_leaves(of) if isinstance(t, Tensor)] for of in ((args, kwargs), found))
        if not operation.is_view and "empty" not in operation.name() and written:
            held = [_bytes(t) for t in (*read, *written)]
            plain = max(t.numel() for t in (*read, *written))
            counted = flop_registry[packet](*args, **kwargs, out_val=found) if packet in flop_registry else plain
            self.done.append((operation.name(), counted, sum(held), any(t.dtype == torch.bfloat16 for t in read)))
        return found

    def best(self, ceilings: Ceilings) -> float:
        """Seconds that it takes at least."""
        return sum(
            max(operations / (ceilings.bfloat16 if half else ceilings.float32), size / ceilings.memory)
            for _, operations, size, half in self.done
        )


def _bytes(tensor: Tensor) -> int:
    """Of what a tensor holds: one that is expanded holds less than it shows."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def quickest(run: Callable[[], object], repeats: int) -> float:
    """Seconds, of several tries after one that warms up: the rest of the machine can only slow one down."""
    taken = []
    for _ in range(repeats + 1):
        started = clock()
        run()
        taken.append(clock() - started)
    return min(taken[1:])


def ceilings(repeats: int) -> Ceilings:
    square = torch.rand(MATRIX, MATRIX)
    rates = {}
    for kind in (torch.float32, torch.bfloat16):
        one, other = square.to(kind), square.T.contiguous().to(kind)
        rates[kind] = 2 * MATRIX**3 / quickest(lambda one=one, other=other: one @ other, repeats)
    source, target = torch.rand(COPIED // 4), torch.empty(COPIED // 4)
    return Ceilings(*rates.values(), 2 * COPIED / quickest(lambda: target.copy_(source), repeats))


@torch.inference_mode()
def parts(preset: str, k: int) -> dict[str, Callable[[], object]]:
    """Each part of one answer, ready to run; and all of a query's answer, which does a little besides."""
    context, (scan, *_) = job(preset, k, 1)
    model = context.model
    embedding = one_shot(context)(scan).embedding
    image, spacing_mm = oriented(scan, normalise(scan.image, embedding.scheme))
    volume, grid = torch.from_numpy(image.copy()), WorkingGrid(image.shape, spacing_mm, embedding.spacing_mm)
    registered = [register(Scan(volume, spacing_mm), reference) for reference in embedding.references]
    device = next(model.parameters()).device
    return {
        "encode": lambda: one_shot(context)(scan),
        "register": lambda: [register(Scan(volume, spacing_mm), reference) for reference in embedding.references],
        "decode": lambda: window_logits(model, embedding.task, volume, grid, device, registered),
        "a query, all": lambda: segment(model, embedding, scan),
    }


@torch.inference_mode()
def roofline(preset: str, repeats: int) -> str:
    most = ceilings(repeats)
    lines = [
        f"{torch.get_num_threads()} threads: {most.float32 / 1e9:.0f} GFLOP/s in float32, {most.bfloat16 / 1e9:.0f} in"
        f" bfloat16, {most.memory / 1e9:.1f} GB/s (a product of {MATRIX}² matrices; a copy of {COPIED // 2**20} MiB).",
        "",
        "| part | classes | GFLOP | GB moved | FLOP a byte | at best, s | measured, s | GFLOP/s | GB/s | reached |",
        "|---" * 10 + "|",
    ]
    for k in (1, 15):
        for name, run in parts(preset, k).items():
            with Count() as count:
                run()
            operations, size = (sum(one[i] for one in count.done) for i in (1, 2))
            best, seconds = count.best(most), quickest(run, repeats)
            lines.append(
                f"| {name} | {k} | {operations / 1e9:.1f} | {size / 1e9:.2f} | {operations / size:.1f} | {best:.2f} |"
                f" {seconds:.2f} | {operations / seconds / 1e9:.1f} | {size / seconds / 1e9:.1f} |"
                f" {best / seconds:.0%} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="a folder, for roofline.md")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--repeats", type=int, default=3, help="the quickest of so many counts")
    arguments = parser.parse_args()
    record(arguments.output)
    keep(arguments.output / "roofline.md", roofline(arguments.preset, arguments.repeats))


if __name__ == "__main__":
    main()
