"""`iris train`."""

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Part = Literal[
    "high_resolution", "foreground", "query_tokens", "prototypes", "location_prior", "spatial_memory", "registration"
]


@dataclass(frozen=True)
class Train:
    """Train on nnU-Net raw datasets; leaves a weights folder that segment, evaluate and app take."""

    datasets: tuple[str, ...]
    """Ids or names of raw datasets, for example 4 Dataset101_SunnybrookLV."""
    output: Path
    """Folder of the run: weights, log.csv, TensorBoard, state, splits and cache."""
    preset: Literal["small", "base", "tiny"] = "small"
    without: tuple[Part, ...] = ()
    """Parts of the model to leave out, for an ablation: the weights then say what `iris evaluate` makes of the rest."""
    iterations: int | None = None
    """Length of the run, and of the learning rate's decay. Default 80000, or as many as --minutes allows."""
    minutes: float | None = None
    """Time box: learning rate and end follow the clock instead."""
    batch: int = 2
    """Episodes an iteration."""
    synthetic: float = 0.6
    """Share of synthetic episodes: painted on label maps, or warped and recoloured from scans."""
    label_maps: tuple[Path, ...] = ()
    """Folders of label maps without images (.nii.gz), for synthetic episodes."""
    learning_rate: float = 4e-3
    seed: int = 0
    workers: int = 1
    """Processes that make episodes, for each that learns from them."""
    processes: int = 1
    """Processes that share each batch, of which --batch must be a multiple; with GPUs one for each. The same as
    torchrun --nproc-per-node N -m app.cli train …"""
    validate_every: int = 1000
    """Iterations between one-shot Dice on validation patients."""
    save_every: int = 200
    """Iterations between saved states."""
    resume: bool = False
    """Go on with the run in --output."""
    start_from: str | None = None
    """Weights (name, folder or owner/name on the Hub, of the same preset) to begin with instead of random ones."""
    device: str = "auto"
    raw_data: Path | None = None
    """Folder of raw datasets; default the environment's nnUNet_raw."""
    channel: int = 0
    """Image channel of datasets that have several."""
    splits: Path | None = None
    """Folder with <dataset>/splits_final.json to use or to write; default nnUNet_preprocessed, else the run's."""
    cache: Path | None = None
    """Training cache to use or to make; default OUTPUT/cache. Where there are no raw datasets it is enough."""

    def run(self) -> int:
        import torch.distributed

        if self.processes > 1 and not torch.distributed.is_torchelastic_launched():
            launcher = "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"
            os.execv(sys.executable, [sys.executable, *launcher, "-m", "app.cli", *sys.argv[1:]])
        from tqdm import tqdm

        from app.service import pick_device
        from iris_core.files import held
        from iris_core.model.iris import PRESETS, without
        from iris_core.training.loop import TrainConfig, train
        from iris_core.training.processes import together
        from nnunet_adapters.raw import prepare_training, splits_folder
        from weights import find_weights

        cache = self.cache or self.output / "cache"
        config = TrainConfig(
            iterations=self.iterations or (10**9 if self.minutes else 80_000),
            minutes=self.minutes,
            batch=self.batch,
            synthetic=self.synthetic,
            learning_rate=self.learning_rate,
            seed=self.seed,
            workers=self.workers,
            validate_every=self.validate_every,
            save_every=self.save_every,
        )
        splits = splits_folder(self.splits, self.output)
        start = find_weights(self.start_from) if self.start_from else None
        model = without(PRESETS[self.preset], *self.without)
        data = self.datasets, self.label_maps, self.raw_data, self.channel, splits, cache
        with together() as processes:
            if processes.first:  # the others find the cache as it left it
                prepare_training(*data, lambda work: tqdm(work, "cache", unit="case"))
            processes.wait()
            index = prepare_training(*data)
            device = processes.device(pick_device(self.device))
            with held(self.output) if processes.first else nullcontext():
                train(cache, index, self.output, model, config, device, self.resume, start, processes)
        print(f"weights: {self.output}")
        return 0
