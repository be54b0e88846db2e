"""Training: one loop, read from top to bottom. Needs torch, numpy, batchgenerators, safetensors and a cache."""

import math
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from iris_core import checkpoint
from iris_core.case import Case, InputError, LabelClass
from iris_core.data.cache import class_spacings, read_case
from iris_core.data.episodes import EpisodeDataset
from iris_core.evaluation.protocol import Draw, draw_pairs, evaluate, summarise
from iris_core.model.iris import Iris, IrisConfig
from iris_core.strategies import Context
from iris_core.training.gate import GATE_EPISODES, fit, observe
from iris_core.training.learn import average_gradients, learn_one, learn_share, side_by_side
from iris_core.training.log import Log
from iris_core.training.processes import ALONE, Processes
from iris_core.training.state import State, begin_with

MOST_SPOILT = 10  # iterations in a row whose gradients are no numbers: each is left out, so many end the run


@dataclass(frozen=True)
class TrainConfig:
    """What decides a run. Optimiser and schedule are the paper's; batch and rate are a small machine's."""

    iterations: int = 80_000
    minutes: float | None = None  # time box: the schedule follows the time, and the run ends with it
    batch: int = 2  # episodes an iteration (paper: 32)
    learning_rate: float = 4e-3  # paper: 2e-3
    final_rate: float = 0.02  # share of the learning rate that exponential decay leaves at the end
    warmup: int = 2_000  # iterations; at most a twentieth of the run
    weight_decay: float = 1e-5
    clip: float = 1.0  # gradient norm
    seed: int = 0
    synthetic: float = 0.6  # share of synthetic episodes
    workers: int = 2
    validate_every: int = 1_000
    validate_pairs: int = 4  # a dataset
    save_every: int = 200


def train(
    cache: Path,
    index: dict[str, dict],
    output: Path,
    model_config: IrisConfig,
    config: TrainConfig,
    device: torch.device,
    resume: bool = False,
    start_from: Path | None = None,
    processes: Processes = ALONE,
) -> None:
    """Train on datasets of a cache and leave a checkpoint folder in ``output``.

    index: the datasets, as the cache describes them. A change of it between a run and its resumption is refused.
    output/state.safetensors is the whole state, written every ``save_every`` iterations and when interrupted;
    ``resume`` goes on from it, on a CPU with the same losses as a run that never stopped (schedule by iterations).
    start_from: a checkpoint folder whose weights the run begins with. log.csv and TensorBoard files lie beside it, and
    in output/average the exponential average of the weights, which is what is validated. An iteration whose gradients
    are not finite changes nothing (bfloat16 on a GPU: one in 160, once). When all is learnt the gate is fitted.
    processes: those that share each batch, this one's number among them; a run may go on with another number of them.
    The first alone writes.
    """
    if config.batch % processes.of:
        raise InputError(f"--batch must be a multiple of the {processes.of} processes, got {config.batch}")
    state_file = output / "state.safetensors"
    if state_file.exists() and not resume:
        raise InputError(f"{output}: holds a run already; pass --resume to go on, or another --output")
    torch.manual_seed(config.seed)
    model = Iris(model_config)
    if start_from:
        begin_with(model, start_from)
    model = model.to(device=device, memory_format=torch.channels_last_3d)
    state = State.of(model, config.learning_rate, config.weight_decay)
    if resume and state_file.exists():
        state.restore(state_file, config, index)
    episodes = EpisodeDataset(cache, index, model.config, config.seed, config.synthetic)
    share = config.batch // processes.of
    firsts = (i * config.batch + processes.number * share for i in range(state.iteration, config.iterations))
    numbers = (first + i for first in firsts for i in range(share))  # of this process' episodes
    loader = iter(_loader(episodes, numbers, config.workers))  # its workers begin at once
    log, seen = None, {}
    if processes.first:
        log, seen = Log(output, state.iteration), _seen(cache, index, model_config.window)
    started = time.monotonic() - state.elapsed
    bar = tqdm(
        total=None if config.minutes else config.iterations,
        initial=state.iteration,
        unit="it",
        dynamic_ncols=True,
        smoothing=0.05,
        disable=not processes.first,
    )

    spoilt = 0  # iterations in a row
    stopped = False
    with _StopSignal() as stop, side_by_side(device) as (pool, at_once):
        try:
            while state.iteration < config.iterations:
                state.elapsed, stopped = processes.agree(time.monotonic() - started, stop.received)
                minutes = state.elapsed / 60
                progress = minutes / config.minutes if config.minutes else state.iteration / config.iterations
                if progress >= 1 or stopped:
                    break
                rate = _learning_rate(config, state.iteration, progress)
                for group in state.optimiser.param_groups:
                    group["lr"] = rate
                learn = partial(learn_one, model, device)
                kept, gradients = learn_share(pool, at_once, learn, loader, share)
                norm = average_gradients(model, processes, gradients, config.batch, config.clip)
                learnt = processes.gather(kept)
                state.iteration += 1  # from here on nothing waits for another process, which may have died
                spoilt = 0 if math.isfinite(norm) else spoilt + 1
                if not spoilt:
                    state.optimiser.step()
                    state.follow()
                    for one in learnt:
                        state.bank.update(one.keys, one.task)
                state.optimiser.zero_grad(set_to_none=True)

                if log:
                    loss = sum(one.loss for one in learnt) / config.batch
                    bar.update()
                    speed = config.batch * state.iteration / (time.monotonic() - started)
                    left = f", {config.minutes - minutes:.0f} min left" if config.minutes else ""
                    bar.set_postfix_str(f"loss {loss:.3f}, {speed:.1f} episodes/s{left}")
                    for one in learnt:
                        log.refused(state.iteration, one.refused)
                    log.write(state.iteration, loss=loss, rate=rate)
                if spoilt == MOST_SPOILT:
                    raise FloatingPointError(f"gradients of {spoilt} iterations in a row are not finite numbers")
                if log and state.iteration % config.validate_every == 0:
                    log.write(state.iteration, **_validate(state.average, cache, index, config))
                    _checkpoint(output, state, seen, config)
                if log and state.iteration % config.save_every == 0:
                    state.save(state_file, config, index)
        finally:  # after an error too: the state may tell why, and the run goes on from it
            del loader  # ends the workers; while an error holds them, they end with the process
            bar.close()
            if log:
                log.close()
                state.elapsed = time.monotonic() - started
                state.save(state_file, config, index)
        if log and not stopped and model.mask_decoder.gate is not None:
            whole = EpisodeDataset(cache, index, model.config, config.seed + 1, config.synthetic, whole=True)
            stopped = not _fit_gate(state, whole, config, device, stop)
        if log:
            _checkpoint(output, state, seen, config)
    if stopped:
        raise KeyboardInterrupt(f"interrupted after {state.iteration} iterations; --resume goes on")


def _fit_gate(
    state: State, episodes: EpisodeDataset, config: TrainConfig, device: torch.device, stop: "_StopSignal"
) -> bool:
    """Fit both models' gate to what the average answers. False, and nothing is fitted, if a signal came before."""
    number, samples = min(GATE_EPISODES, state.iteration * config.batch), []
    for episode in tqdm(_loader(episodes, range(number), config.workers), "gate", number, unit="episode"):
        if stop.received:
            return False
        samples += observe(state.average, device, episode)
    fit(state.average.mask_decoder.gate, samples)
    state.model.mask_decoder.gate.load_state_dict(state.average.mask_decoder.gate.state_dict())
    return True


def _learning_rate(config: TrainConfig, iteration: int, progress: float) -> float:
    """Linear warm-up, then exponential decay (paper)."""
    warmup = max(1, min(config.warmup, config.iterations // 20)) if not config.minutes else min(config.warmup, 200)
    return config.learning_rate * min(1.0, (iteration + 1) / warmup) * config.final_rate**progress


def _loader(episodes: EpisodeDataset, numbers: Iterable[int], workers: int) -> DataLoader:
    """Episodes of these numbers, made ahead in worker processes."""
    return DataLoader(
        episodes,
        sampler=numbers,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=8 if workers else None,
        multiprocessing_context="spawn" if workers else None,  # forkserver outlives a killed run
        worker_init_fn=_settle,
    )


def _settle(worker: int) -> None:
    torch.set_num_threads(1)
    os.setpgrp()  # a signal to the trainer's group is the trainer's: it ends its workers itself, by SIGTERM


def _validate(model: Iris, cache: Path, index: dict[str, dict], config: TrainConfig) -> dict[str, float]:
    """One-shot Dice on validation patients, whole volumes, a few fixed pairs a dataset."""
    report = {}
    for name, dataset in index.items():
        if not dataset["images"]:
            continue
        pairs = draw_pairs(dataset["cases"], dataset["val"], dataset["val"], 1, seed=0)
        pairs = [pairs[i] for i in np.linspace(0, len(pairs) - 1, config.validate_pairs).astype(int)] if pairs else []
        classes = tuple(LabelClass(**c) for c in dataset["classes"])

        def read(case: str, name=name, classes=classes, ignore=dataset["ignore"]) -> Case:
            cached = read_case(cache / name / f"{case}.npz")
            affine = np.diag([*cached.spacing_mm, 1.0])
            return Case(cached.image, affine, cached.labels.astype(np.int32), classes, ignore, case)

        draws = [Draw((reference,), (query,)) for reference, query in pairs]
        scores = list(evaluate("one_shot", Context(model, scheme="none"), read, draws, tolerance_mm=None))
        mean = summarise(scores)["mean_dice"]
        if mean is not None:
            report[f"dice/{name}"] = mean
    return report


def _seen(cache: Path, index: dict[str, dict], window: int) -> dict[str, dict]:
    """What the weights see: kept beside them, so that an evaluation can tell seen from unseen, and the memory bank
    knows at which spacing and with which intensities its classes were learnt."""
    seen = {}
    for name, dataset in index.items():
        seen[name] = {key: dataset[key] for key in ("train", "val")}
        if dataset["images"]:
            spacings = class_spacings(cache, name, dataset, window)
            seen[name] |= {"classes": spacings, "scheme": dataset["scheme"]}
    return seen


def _checkpoint(output: Path, state: State, seen: dict[str, dict], config: TrainConfig) -> None:
    """The last weights in ``output``, their average in ``output``/average."""
    spent = {"iterations": state.iteration, "seconds": round(state.elapsed)}
    record = {"datasets": seen, "config": asdict(config)} | spent
    for folder, model in ((output, state.model), (output / "average", state.average)):
        checkpoint.save(folder, model, state.bank, record)


class _StopSignal:
    """SIGTERM and SIGINT end the run after the iteration in progress, with its state saved."""

    def __enter__(self) -> "_StopSignal":
        self.received = False
        self._former = {n: signal.signal(n, self._receive) for n in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        """Let signals do what they did before: what comes after the run may start processes of its own."""
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _receive(self, number, frame) -> None:
        self.received = True
