"""Training: one loop, read from top to bottom. Needs torch, numpy, batchgenerators, safetensors and a cache."""

import math
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from iris_core import checkpoint
from iris_core.case import Case, InputError, LabelClass
from iris_core.data.cache import class_spacings, read_case
from iris_core.data.episodes import Episode, EpisodeDataset
from iris_core.evaluation.protocol import Draw, draw_pairs, evaluate, summarise
from iris_core.model.iris import Iris, IrisConfig, precision
from iris_core.model.losses import matching_loss, segmentation_loss
from iris_core.model.task_encoder import Task
from iris_core.strategies import Context
from iris_core.training.log import Log
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
) -> None:
    """Train on datasets of a cache and leave a checkpoint folder in ``output``.

    index: the datasets, as the cache describes them. A change of it between a run and its resumption is refused.
    output/state.safetensors is the whole state, written every ``save_every`` iterations and when interrupted;
    ``resume`` goes on from it, on a CPU with the same losses as a run that never stopped (schedule by iterations).
    start_from: a checkpoint folder whose weights the run begins with. log.csv and TensorBoard files lie beside it, and
    in output/average the exponential average of the weights, which is what is validated. An iteration whose gradients
    are not finite changes nothing (bfloat16 on a GPU: one in 160, once).
    """
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
    loader = iter(_loader(episodes, config, state.iteration))  # its workers begin at once
    log, seen = Log(output, state.iteration), _seen(cache, index, model_config.window)
    started = time.monotonic() - state.elapsed
    bar = tqdm(
        total=None if config.minutes else config.iterations,
        initial=state.iteration,
        unit="it",
        dynamic_ncols=True,
        smoothing=0.05,
    )

    spoilt = 0  # iterations in a row
    with _StopSignal() as stop, _side_by_side(device) as pool:
        try:
            while state.iteration < config.iterations:
                state.elapsed = time.monotonic() - started
                minutes = state.elapsed / 60
                progress = minutes / config.minutes if config.minutes else state.iteration / config.iterations
                if progress >= 1 or stop.received:
                    break
                rate = _learning_rate(config, state.iteration, progress)
                for group in state.optimiser.param_groups:
                    group["lr"] = rate
                learnt = list(pool.map(partial(_learn, model, device), [next(loader) for _ in range(config.batch)]))
                loss = sum(value for _, _, value, _ in learnt) / config.batch
                norm = _average_gradients(model, [gradients for _, _, _, gradients in learnt], config.clip)
                state.iteration += 1
                for episode, _, _, _ in learnt:
                    log.refused(state.iteration, episode.refused)
                spoilt = 0 if math.isfinite(norm) else spoilt + 1
                if not spoilt:
                    state.optimiser.step()
                    state.follow()
                    for episode, task, _, _ in learnt:
                        state.bank.update(episode.keys, task)
                state.optimiser.zero_grad(set_to_none=True)

                bar.update()
                speed = config.batch * state.iteration / (time.monotonic() - started)
                left = f", {config.minutes - minutes:.0f} min left" if config.minutes else ""
                bar.set_postfix_str(f"loss {loss:.3f}, {speed:.1f} episodes/s{left}")
                log.write(state.iteration, loss=loss, rate=rate)
                if spoilt == MOST_SPOILT:
                    raise FloatingPointError(f"gradients of {spoilt} iterations in a row are not finite numbers")
                if state.iteration % config.validate_every == 0:
                    log.write(state.iteration, **_validate(state.average, cache, index, config))
                    _checkpoint(output, state, seen, config)
                if state.iteration % config.save_every == 0:
                    state.save(state_file, config, index)
        finally:  # after an error too: the state may tell why, and the run goes on from it
            del loader  # ends the workers; while an error holds them, they end with the process
            bar.close()
            log.close()
            state.elapsed = time.monotonic() - started
            state.save(state_file, config, index)
        _checkpoint(output, state, seen, config)
    if stop.received:
        raise KeyboardInterrupt(f"interrupted after {state.iteration} iterations; --resume goes on")


def _learn(
    model: Iris, device: torch.device, episode: Episode
) -> tuple[Episode, Task, float, tuple[Tensor | None, ...]]:
    """Forward and backward of one episode: its T, the loss, and the gradient of every parameter."""
    carried = episode.carried and episode.carried.to(device)
    with precision(device):
        reference, query = (model.encode_image(x.to(device)) for x in (episode.reference, episode.query))
        task = model.encode_task(reference, episode.reference_masks.to(device), episode.reference_box.to(device))
        used = task.bare() if episode.drop_memory else task
        used = used.without_location() if episode.drop_location else used
        used = used.strange(episode.strangeness, episode.seed) if episode.strangeness else used
        box = episode.query_box.to(device)
        evidence = model.compare(query, used, box, carried)
        logits = model.decode(query, used, box, evidence=evidence)
    masks = episode.query_masks.to(device)
    loss = segmentation_loss(logits, masks, None if episode.query_valid is None else episode.query_valid.to(device))
    if evidence is not None and evidence.match is not None and not episode.drop_memory:
        loss = loss + matching_loss(evidence.match, masks)
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return episode, task.map(Tensor.detach), loss.item(), gradients


def _average_gradients(model: Iris, of_episodes: list[tuple[Tensor | None, ...]], clip: float) -> float:
    """The mean over episodes, added in their order: the same bits whichever thread was first. Returns its norm."""
    for parameter, *gradients in zip(model.parameters(), *of_episodes, strict=True):
        known = [g for g in gradients if g is not None]
        parameter.grad = torch.stack(known).sum(0) / len(gradients) if known else None
    return torch.nn.utils.clip_grad_norm_(model.parameters(), clip).item()


@contextmanager
def _side_by_side(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Episodes of a batch in threads of their own: on a CPU that uses the cores better than each operation does. For a
    GPU one thread: 86 ms an episode where four take 190, since each waits for the others to launch (H100)."""
    cores = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(cores if device.type == "cpu" else 1) as pool:
            yield pool
    finally:
        torch.set_num_threads(cores)


def _learning_rate(config: TrainConfig, iteration: int, progress: float) -> float:
    """Linear warm-up, then exponential decay (paper)."""
    warmup = max(1, min(config.warmup, config.iterations // 20)) if not config.minutes else min(config.warmup, 200)
    return config.learning_rate * min(1.0, (iteration + 1) / warmup) * config.final_rate**progress


def _loader(episodes: EpisodeDataset, config: TrainConfig, iteration: int) -> DataLoader:
    """Episodes from the one after those already learnt, made ahead in worker processes."""
    indices = range(iteration * config.batch, config.iterations * config.batch)
    return DataLoader(
        episodes,
        sampler=indices,
        batch_size=None,
        num_workers=config.workers,
        prefetch_factor=8 if config.workers else None,
        multiprocessing_context="spawn" if config.workers else None,  # forkserver outlives a killed run
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
