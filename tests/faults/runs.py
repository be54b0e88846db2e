"""Commands in processes of their own, which begin at once since all is imported already, and can be killed at any
moment. Forked from a server that has no threads."""

import faulthandler
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing import forkserver

CONTEXT = multiprocessing.get_context("forkserver")
IMPORTED = ["app.cli", "app.service", "app.report", "app.space", "app.viewers.atlas", "iris_core.training.loop"]
IMPORTED += ["matplotlib.pyplot", "plotly.graph_objects", "sklearn.manifold", "torch.utils.tensorboard"]
IMPORTED += ["iris_core.data.synthesis", "pytorch_optimizer", "monai.metrics.surface_distance"]
IMPORTED += ["nnunet_adapters.folder", "nnunet_adapters.new_dataset", "nnunet_adapters.raw", "monai.metrics"]
CONTEXT.set_forkserver_preload(IMPORTED)
PATIENCE_S = 300


class Run:
    """One `iris …` under way. most_bytes: of a file it writes; what it prints does not count: a pipe."""

    def __init__(self, arguments: list[str], most_bytes: int | None = None) -> None:
        self.started, self._printed = time.monotonic(), []
        here, there = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=_main, args=(arguments, there, most_bytes))
        self.process.start()
        there.close()
        self._reader = threading.Thread(target=self._read, args=(here,))
        self._reader.start()

    def _read(self, printed) -> None:
        while piece := os.read(printed.fileno(), 2**16):
            self._printed.append(piece)

    def end(self) -> int:
        """Wait for its end. Returns the exit code, negative for a signal."""
        self.process.join(PATIENCE_S)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutError(f"did not end in {PATIENCE_S} s: {self.said()}")
        self.seconds = time.monotonic() - self.started
        return self.process.exitcode

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()

    def said(self) -> str:
        self._reader.join()
        return b"".join(self._printed).decode("utf-8", "replace")


def iris(arguments: list[str], most_bytes: int | None = None) -> tuple[int, str, float]:
    """Exit code, what was printed, seconds."""
    run = Run(arguments, most_bytes)
    code = run.end()
    return code, run.said(), run.seconds


def end_server() -> None:
    """A process has one such server, and other tests want one that has imported less."""
    forkserver._forkserver._stop()


def _main(arguments: list[str], said, most_bytes: int | None) -> None:
    import torch

    os.setsid()
    os.environ |= {"NO_COLOR": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # as in a process that was not forked by a server
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    sys.stdout, sys.stderr = (open(n, "w", encoding="utf-8", buffering=1, closefd=False) for n in (1, 2))  # noqa: SIM115
    faulthandler.enable(sys.stderr)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    from app.cli import main

    code = main(arguments)
    sys.stdout.flush()
    os._exit(code)
