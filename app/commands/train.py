"""`iris train`."""

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
    """Processes that make episodes."""
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
        from tqdm import tqdm

        from app.service import pick_device
        from iris_core.checkpoint import held
        from iris_core.model.iris import PRESETS, without
        from iris_core.training.loop import TrainConfig, train
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
        index = prepare_training(
            self.datasets,
            self.label_maps,
            self.raw_data,
            self.channel,
            splits,
            cache,
            lambda work: tqdm(work, "cache", unit="case"),
        )
        start = find_weights(self.start_from) if self.start_from else None
        model = without(PRESETS[self.preset], *self.without)
        with held(self.output):
            train(cache, index, self.output, model, config, pick_device(self.device), self.resume, start)
        print(f"weights: {self.output}")
        return 0
