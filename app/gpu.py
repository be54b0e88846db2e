"""A GPU for one call, on a Hugging Face Space that lends them (ZeroGPU); everywhere else a call is just a call."""

import math
import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from iris_core.case import Case, InputError
from iris_core.embeddings import TaskEmbedding
from iris_core.forecast import work
from iris_core.model.iris import Iris

LENT = bool(os.environ.get("SPACES_ZERO_GPU"))  # the `spaces` package goes by it too, and is there where it is set
LONGEST_S = 300
P = ParamSpec("P")  # what a lent function takes
R = TypeVar("R")  # what it returns
START_S, WINDOW_S = 10, 0.25  # the model goes to the GPU; a window is encoded or decoded. Ours, generous, not measured

if LENT:
    import spaces  # before the model is put on the GPU, for which it stands in until one is lent


def lend(function: Callable[P, R], forecast: Callable[..., float]) -> Callable[P, R]:
    """``function``, which on ZeroGPU runs in a process that has a GPU for ``forecast(*arguments)`` seconds.

    Arguments and results are pickled there: arrays, tensors on the CPU and plain values, no functions. The model is
    not an argument: the process is a fork, and has what ``function`` is bound to.
    """
    if not LENT:
        return function

    @wraps(function)
    def caught(*arguments):
        try:
            return function(*arguments)
        except InputError as error:  # raised there, it would arrive without its message
            return error

    def duration(*arguments) -> int:
        return int(min(LONGEST_S, 1 + forecast(*arguments)))

    lent = spaces.GPU(caught, duration=duration)

    @wraps(function)
    def call(*arguments):
        result = lent(*arguments)
        if isinstance(result, InputError):
            raise result
        return result

    return call


def seconds(model: Iris, *arguments) -> float:
    """Seconds that a pass over the cases among the arguments takes at most.

    With a T among the arguments from the windows of the forecast (iris_core/forecast.py) at its worst; else from those
    that cover a case at the paper's 1.5 mm, with 50 % overlap.
    """
    task = next((a for a in arguments if isinstance(a, TaskEmbedding)), None)
    parts = [part for a in arguments for part in (a if isinstance(a, list | tuple) else [a])]
    cases = [part for part in parts if isinstance(part, Case)]
    if task:
        windows = sum(len(work(model, task, case).if_lost) for case in cases)
    else:
        half_mm = model.config.window * 1.5 / 2
        windows = sum(
            math.prod(max(1, math.ceil(n / half_mm) - 1) for n in c.image.shape * c.spacing_mm) for c in cases
        )
    return START_S + WINDOW_S * windows
