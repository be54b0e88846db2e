"""Training on a machine that has neither the raw data nor a network: the training cache, made small enough to carry.

    python benchmarks/elsewhere.py pack --cache runs/cache --output .gpu        # here: eight archives, 34 MB for 148
    python .gpu/elsewhere.py unpack --output /tmp/cache                         # there, beside the archives
    python .gpu/elsewhere.py train --cache /tmp/cache --output /tmp/run --minutes 7 --batch 4 --workers 6 \\
        [--start-from weights/iris-small] [--datasets Dataset004 …] [--seed 0]

Needs numpy, pillow and what the trainer needs (torch, batchgenerators, safetensors, pytorch_optimizer, tensorboard).
Training cases alone are carried; grey values as JPEG 2000, with an error of about a fiftieth of a scan's standard
deviation. weights/TRAINING.md says what was learnt from it.
"""

import argparse
import io
import json
import tarfile
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image

PARTS, DECIBEL = 8, 46
Image.MAX_IMAGE_PIXELS = None


def packed(path: Path) -> bytes:
    """A case of the cache."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    if "image" in arrays:
        image = arrays.pop("image").astype(np.float32)
        low, high = image.min(), image.max()
        grey = np.round((image - low) / max(high - low, 1e-6) * 255).astype(np.uint8)
        flat = np.moveaxis(grey, np.argmin(grey.shape), 0).reshape(-1, _moved(grey.shape)[2])
        file = io.BytesIO()
        Image.fromarray(flat).save(file, "JPEG2000", irreversible=True, quality_mode="dB", quality_layers=[DECIBEL])
        arrays["jpeg"] = np.frombuffer(file.getvalue(), np.uint8)
        arrays |= {"range": np.array([low, high], np.float32), "shape": np.array(image.shape)}
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _moved(shape: tuple[int, ...]) -> tuple[int, ...]:
    """With the shortest axis first."""
    first = int(np.argmin(shape))
    return (shape[first], *(n for i, n in enumerate(shape) if i != first))


def unpacked(data: bytes, path: Path) -> None:
    with np.load(io.BytesIO(data)) as stored:
        arrays = {name: stored[name] for name in stored.files}
    if "jpeg" in arrays:
        flat = np.asarray(Image.open(io.BytesIO(arrays.pop("jpeg").tobytes()))).astype(np.float32)
        (low, high), shape = arrays.pop("range"), tuple(arrays.pop("shape").tolist())
        image = np.moveaxis(flat.reshape(_moved(shape)), 0, int(np.argmin(shape))) / 255 * (high - low) + low
        arrays["image"] = np.ascontiguousarray(image).astype(np.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def pack(cache: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    datasets = json.loads((cache / "cache.json").read_text("utf-8"))["datasets"]
    names = [f"{name}/{case}.npz" for name, dataset in datasets.items() for case in dataset["train"]]
    archives = [tarfile.open(output / f"cache{i}.tar.xz", "w:xz", preset=6) for i in range(PARTS)]  # noqa: SIM115
    archives[0].add(cache / "cache.json", "cache.json")
    with Pool() as pool:
        for i, data in enumerate(pool.imap(packed, [cache / name for name in names])):
            entry = tarfile.TarInfo(names[i])
            entry.size = len(data)
            archives[i % PARTS].addfile(entry, io.BytesIO(data))
    for archive in archives:
        archive.close()
    (output / Path(__file__).name).write_bytes(Path(__file__).read_bytes())


def _unpack_one(archive: Path, output: Path) -> None:
    with tarfile.open(archive) as entries:
        for entry in entries:
            data = entries.extractfile(entry).read()
            if entry.name == "cache.json":
                output.mkdir(parents=True, exist_ok=True)
                (output / entry.name).write_bytes(data)
            else:
                unpacked(data, output / entry.name)


def unpack(output: Path) -> None:
    with Pool(PARTS) as pool:
        pool.starmap(
            _unpack_one, [(archive, output) for archive in sorted(Path(__file__).parent.glob("cache*.tar.xz"))]
        )


def train(arguments: argparse.Namespace) -> None:
    import torch

    from iris_core.data.cache import read_index
    from iris_core.model.iris import PRESETS
    from iris_core.training import loop

    index = {
        name: dataset
        for name, dataset in read_index(arguments.cache).items()
        if not arguments.datasets or name.startswith(tuple(arguments.datasets))
    }
    config = loop.TrainConfig(
        iterations=10**9,
        minutes=arguments.minutes,
        batch=arguments.batch,
        seed=arguments.seed,
        workers=arguments.workers,
        validate_every=10**9,  # nothing to validate on was carried
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loop.train(
        arguments.cache, index, arguments.output, PRESETS["small"], config, device, start_from=arguments.start_from
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pack", "unpack", "train"))
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--start-from", type=Path)
    parser.add_argument("--datasets", nargs="*", help="beginnings of names; default all")
    parser.add_argument("--minutes", type=float, default=7)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.what == "pack":
        pack(arguments.cache, arguments.output)
    elif arguments.what == "unpack":
        unpack(arguments.output)
    else:
        train(arguments)


if __name__ == "__main__":
    main()
