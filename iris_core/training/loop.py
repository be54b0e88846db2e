"""Training: one loop, read from top to bottom. Needs torch, numpy, batchgenerators, safetensors and a cache."""

import csv
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pytorch_optimizer import Lamb
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from iris_core import checkpoint
from iris_core.case import Case, InputError, LabelClass
from iris_core.data.cache import class_spacings, read_case
from iris_core.data.episodes import Episode, EpisodeDataset, carried_over
from iris_core.embeddings import MemoryBank
from iris_core.evaluation.protocol import Draw, draw_pairs, evaluate, summarise
from iris_core.model.iris import Iris, IrisConfig, precision
from iris_core.model.losses import matching_loss, segmentation_loss
from iris_core.model.task_encoder import Task
from iris_core.strategies import Given

REFUSED, REFUSED_NAMED = "refused/", 10  # rows of log.csv; cases named at the end of a run


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
    start_from: a checkpoint folder whose weights the run begins with. log.csv and TensorBoard files lie beside it.
    """
    state_file = output / "state.safetensors"
    if state_file.exists() and not resume:
        raise InputError(f"{output}: holds a run already; pass --resume to go on, or another --output")
    torch.manual_seed(config.seed)
    model = Iris(model_config)
    if start_from:
        _begin_with(model, start_from)
    model = model.to(device=device, memory_format=torch.channels_last_3d)
    optimiser = Lamb(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    bank, iteration, elapsed = MemoryBank(), 0, 0.0
    if resume and state_file.exists():
        bank, iteration, elapsed = _restore(state_file, model, optimiser, config, index, device)
    log, seen = _Log(output, iteration), _seen(cache, index, model_config.window)
    episodes = EpisodeDataset(cache, index, model.config, config.seed, config.synthetic)
    loader = iter(_loader(episodes, config, iteration))
    started = time.monotonic() - elapsed
    bar = tqdm(
        total=None if config.minutes else config.iterations,
        initial=iteration,
        unit="it",
        dynamic_ncols=True,
        smoothing=0.05,
    )

    with _StopSignal() as stop, _side_by_side(device) as pool:
        try:
            while iteration < config.iterations:
                elapsed = time.monotonic() - started
                progress = elapsed / 60 / config.minutes if config.minutes else iteration / config.iterations
                if progress >= 1 or stop.received:
                    break
                rate = _learning_rate(config, iteration, progress)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                learnt = list(pool.map(partial(_learn, model, device), [next(loader) for _ in range(config.batch)]))
                for episode, task, _, _ in learnt:
                    bank.update(episode.keys, task)
                    log.refused(iteration + 1, episode.refused)
                loss = sum(value for _, _, value, _ in learnt) / config.batch
                _average_gradients(model, [gradients for _, _, _, gradients in learnt], config.clip)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                iteration += 1

                bar.update()
                speed = config.batch * iteration / (time.monotonic() - started)
                left = f", {config.minutes - elapsed / 60:.0f} min left" if config.minutes else ""
                bar.set_postfix_str(f"loss {loss:.3f}, {speed:.1f} episodes/s{left}")
                log.write(iteration, loss=loss, rate=rate)
                if iteration % config.validate_every == 0:
                    log.write(iteration, **_validate(model, cache, index, config))
                    checkpoint.save(output, model, bank, _record(seen, config, iteration, elapsed))
                if iteration % config.save_every == 0:
                    _save(state_file, model, optimiser, bank, iteration, time.monotonic() - started, config, index)
        finally:  # after an error too: the state may tell why, and the run goes on from it
            del loader  # ends the workers; while an error holds them, they end with the process
            bar.close()
            log.close()
            _save(state_file, model, optimiser, bank, iteration, time.monotonic() - started, config, index)
        checkpoint.save(output, model, bank, _record(seen, config, iteration, time.monotonic() - started))
    if stop.received:
        raise KeyboardInterrupt(f"interrupted after {iteration} iterations; --resume goes on")


def _begin_with(model: Iris, start_from: Path) -> None:
    """Copy a checkpoint's weights. What the model has beyond them stays random; further input channels begin as zero,
    and where there are so many outputs more for each, all do what the one did."""
    weights = start_from / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"{start_from}: a weights folder must hold model.safetensors; none was found")
    new = model.state_dict()
    for name, old in load_file(weights).items():
        grown = new.get(name)
        if grown is None:
            raise InputError(f"{start_from}: must be of the preset that is trained, which has no {name}")
        old = old.repeat_interleave(max(1, grown.shape[0] // old.shape[0]), 0) if old.ndim else old
        inner = (*old.shape[:1], *grown.shape[1:2], *old.shape[2:])
        if grown.shape != inner or (old.ndim > 1 and old.shape[1] > grown.shape[1]):
            raise InputError(f"{start_from}: must be of the preset that is trained, its {name} does not fit")
        grown.zero_()
        grown[(slice(None), slice(old.shape[1])) if old.ndim > 1 else ...] = old


def _learn(
    model: Iris, device: torch.device, episode: Episode
) -> tuple[Episode, Task, float, tuple[Tensor | None, ...]]:
    """Forward and backward of one episode: its T, the loss, and the gradient of every parameter."""
    registered = model.registers and not episode.drop_memory and not episode.drop_registration
    carried = carried_over(episode, model.config.stem_stride, device) if registered else None
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
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()} on an episode of {episode.keys or 'synthetic tasks'}")
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return episode, task.map(Tensor.detach), loss.item(), gradients


def _average_gradients(model: Iris, of_episodes: list[tuple[Tensor | None, ...]], clip: float) -> None:
    """The mean over episodes, added in their order: the same bits whichever thread was first."""
    for parameter, *gradients in zip(model.parameters(), *of_episodes, strict=True):
        known = [g for g in gradients if g is not None]
        parameter.grad = torch.stack(known).sum(0) / len(gradients) if known else None
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)


@contextmanager
def _side_by_side(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Episodes of a batch in threads of their own: on a CPU that uses the cores better than each operation does."""
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


def _save(
    path: Path,
    model: Iris,
    optimiser: Lamb,
    bank: MemoryBank,
    iteration: int,
    elapsed: float,
    config: TrainConfig,
    index: dict[str, dict],
) -> None:
    """Everything a run needs to go on, in one file without pickle, replaced in one step."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            if parameter in optimiser.state:
                tensors[f"optimiser/{key}/{name}"] = optimiser.state[parameter][key]
    tensors |= {f"bank/{k}": v for k, v in bank.tensors().items()}
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    metadata = {
        "iteration": str(iteration),
        "elapsed": str(elapsed),
        "step": str(optimiser.param_groups[0].get("step", 0)),
        "config": json.dumps(asdict(config)),
        "model": json.dumps(model.config.to_dict()),
        "index": json.dumps(index, sort_keys=True),
    }
    checkpoint.write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))


def _restore(
    path: Path, model: Iris, optimiser: Lamb, config: TrainConfig, index: dict[str, dict], device: torch.device
) -> tuple[MemoryBank, int, float]:
    with safe_open(path, "pt") as stored:
        metadata = stored.metadata()
        tensors = {k: stored.get_tensor(k) for k in stored.keys()}  # noqa: SIM118
    if IrisConfig(**json.loads(metadata["model"])) != model.config:
        raise InputError(
            f"{path}: was made with another model configuration; choose the run's own --preset and --without"
        )
    if metadata["index"] != json.dumps(index, sort_keys=True):
        raise InputError(f"{path}: the run began with other datasets or another split; --resume must repeat them")
    before = TrainConfig(**json.loads(metadata["config"]))
    free = {"workers": 0, "save_every": 0, "validate_every": 0, "validate_pairs": 0}
    if replace(before, **free) != replace(config, **free):
        raise InputError(f"{path}: the run began with other settings, {before}; --resume must repeat them")
    model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
    for name, parameter in model.named_parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            stored_name = f"optimiser/{key}/{name}"
            if stored_name in tensors:
                like = torch.empty_like(parameter).copy_(tensors[stored_name].to(device))
                optimiser.state[parameter][key] = like
    optimiser.param_groups[0]["step"] = int(metadata["step"])
    bank = MemoryBank.from_tensors({k.removeprefix("bank/"): v for k, v in tensors.items() if k.startswith("bank/")})
    return bank, int(metadata["iteration"]), float(metadata["elapsed"])


def _validate(model: Iris, cache: Path, index: dict[str, dict], config: TrainConfig) -> dict[str, float]:
    """One-shot Dice on validation patients, whole volumes, a few fixed pairs a dataset."""
    model.eval()
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
        scores = list(evaluate("one_shot", Given(model, scheme="none"), read, draws, tolerance_mm=None))
        mean = summarise(scores)["mean_dice"]
        if mean is not None:
            report[f"dice/{name}"] = mean
    model.train()
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


def _record(seen: dict[str, dict], config: TrainConfig, iteration: int, elapsed: float) -> dict:
    return {"datasets": seen, "config": asdict(config), "iterations": iteration, "seconds": round(elapsed)}


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


class _Log:
    """log.csv (iteration, name, value) and TensorBoard, cut back to the iteration a resumed run goes on from.

    Cases of which no episode could be made are rows "refused/Dataset: case, case" in log.csv; ``close`` says how often.
    """

    def __init__(self, output: Path, iteration: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        output.mkdir(parents=True, exist_ok=True)
        path = output / "log.csv"
        kept = []
        if path.exists():
            with open(path, newline="") as file:
                kept = [
                    row for row in csv.reader(file) if len(row) == 3 and row[0].isdigit() and int(row[0]) <= iteration
                ]
        self._refused = Counter(row[1].removeprefix(REFUSED) for row in kept if row[1].startswith(REFUSED))
        checkpoint.write_atomically(path, lambda temporary: _write_rows(temporary, kept))
        self._file = open(path, "a", newline="")  # noqa: SIM115
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._board = SummaryWriter(output / "tensorboard", purge_step=iteration + 1)

    def write(self, iteration: int, **values: float) -> None:
        for name, value in values.items():
            self._rows.writerow([iteration, name, repr(float(value))])
            self._board.add_scalar(name, value, iteration)
        self._file.flush()

    def refused(self, iteration: int, cases: tuple[str, ...]) -> None:
        self._refused.update(cases)
        self._rows.writerows([iteration, f"{REFUSED}{drawn}", 1] for drawn in cases)

    def close(self) -> None:
        self._file.close()
        self._board.close()
        if self._refused:
            named = "; ".join(f"{drawn} ({times}×)" for drawn, times in self._refused.most_common(REFUSED_NAMED))
            print(
                f"{self._refused.total()} episodes were drawn anew, since these cases make none together: {named}"
                + ("; all are in log.csv" if len(self._refused) > REFUSED_NAMED else ""),
                file=sys.stderr,
            )


def _write_rows(path: Path, rows: list[list[str]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["iteration", "name", "value"], *rows])
