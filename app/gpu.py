"""A GPU for one call, on a Hugging Face Space that lends them (ZeroGPU); everywhere else a call is just a call."""

import math
import os
from collections.abc import Callable
from functools import wraps

from iris_core.case import Case, InputError
from iris_core.embeddings import TaskEmbedding

LENT = bool(os.environ.get("SPACES_ZERO_GPU"))  # the `spaces` package goes by it too, and is there where it is set
LONGEST_S = 300
START_S, WINDOW_S = 10, 0.25  # the model goes to the GPU; a window is encoded or decoded. Ours, generous, not measured

if LENT:
    import spaces  # before the model is put on the GPU, for which it stands in until one is lent


def lend(work: Callable, seconds: Callable[..., float]) -> Callable:
    """``work``, which on ZeroGPU runs in a process that has a GPU for ``seconds(*arguments)``.

    Arguments and results are pickled there: arrays, tensors on the CPU and plain values, no functions. The model is
    not an argument: the process is a fork, and has what ``work`` is bound to.
    """
    if not LENT:
        return work

    @wraps(work)
    def caught(*arguments):
        try:
            return work(*arguments)
        except InputError as error:  # raised there, it would arrive without its message
            return error

    def duration(*arguments) -> int:
        return int(min(LONGEST_S, 1 + seconds(*arguments)))

    lent = spaces.GPU(caught, duration=duration)

    @wraps(work)
    def call(*arguments):
        result = lent(*arguments)
        if isinstance(result, InputError):
            raise result
        return result

    return call


def forecast(window: int, *arguments) -> float:
    """Seconds that a pass over the cases among the arguments takes at most.

    From the windows that cover them with 50 % overlap, at the working spacing of a T among the arguments.
    """
    spacing_mm = next((a.spacing_mm for a in arguments if isinstance(a, TaskEmbedding)), 1.5)
    parts = [part for a in arguments for part in (a if isinstance(a, list | tuple) else [a])]
    extents = [case.image.shape * case.spacing_mm for case in parts if isinstance(case, Case)]
    windows = sum(math.prod(max(1, math.ceil(2 * mm / (window * spacing_mm)) - 1) for mm in e) for e in extents)
    return START_S + WINDOW_S * windows
