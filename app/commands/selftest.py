"""`iris selftest`."""

import time
from dataclasses import dataclass

TOLERANCE = 0.01  # of Dice: float32 in place of bfloat16, other kernels


@dataclass(frozen=True)
class Figures:
    """One sample. dice: class name → of the query's mask and the true one. Seconds: of the first run in a process."""

    dice: dict[str, float]
    encode_s: float
    segment_s: float


# Dice: 2026-11-30, AMD EPYC with AVX512-BF16, torch 2.13; in float32 there 0.888, 0.876 and 0.930. Seconds: 2026-11-27,
# at low priority beside other work on two cores of an Intel Xeon with AMX-BF16, bfloat16; the middle of three runs.
RECORDED_WITH = "dcf02bf8089ecf87e97c734c57017f5e7b7e66c14bfc092be804e91c550e5716"  # of model.safetensors
RECORDED = {
    "hippocampus": Figures({"Anterior": 0.8879, "Posterior": 0.8757}, 0.35, 0.64),
    "heart": Figures({"left ventricle cavity": 0.9302}, 0.73, 1.82),
}


@dataclass(frozen=True)
class Selftest:
    """Segment the sample scans with the released weights: right masks, as recorded? How fast? Exit code 1 if not right.

    Dice of every structure must lie within 0.01 of what was recorded, and the weights be those it was recorded with.
    Seconds are compared, too, but decide nothing: that is for you to judge.
    """

    device: str = "auto"

    def run(self) -> int:
        from app.service import Service

        service = Service("iris-small", self.device)
        print(f"device {next(service.checkpoint.model.parameters()).device}, weights {service.checkpoint.sha256[:12]}")
        known = service.checkpoint.sha256 == RECORDED_WITH
        if not known:
            print(f"FAILED: the figures were recorded with weights {RECORDED_WITH[:12]}")
        wrong = [key for key, recorded in RECORDED.items() if not _as_recorded(key, measured(service, key), recorded)]
        print("FAILED: " + ", ".join(wrong) if wrong else f"all Dice within {TOLERANCE} of what was recorded")
        return int(bool(wrong) or not known)


def measured(service, key: str) -> Figures:
    """Run one sample, once: the first also pays for what torch loads late."""
    from app.sample_scans import samples
    from iris_core.evaluation.metrics import dice
    from nnunet_adapters.images import read_reference

    sample = samples()[key]
    shown = read_reference(sample.reference, sample.mask, sample.names)
    truth = read_reference(sample.query, sample.query_mask, sample.names)
    begun = time.perf_counter()
    task = service.encode(shown)
    encoded = time.perf_counter()
    labels = service.segment(task, truth)
    done = time.perf_counter()
    overlap = {c.name: dice(labels == c.value, c.mask(truth.labels)) for c in shown.present()}
    return Figures(overlap, encoded - begun, done - encoded)


def _as_recorded(key: str, found: Figures, recorded: Figures) -> bool:
    """Print a sample's figures beside the recorded ones. Whether its Dice is as recorded."""
    right = found.dice.keys() == recorded.dice.keys()
    for name, value in found.dice.items():
        before = recorded.dice.get(name, float("nan"))
        right &= abs(value - before) <= TOLERANCE
        print(f"{key}: {name:24} Dice {value:.3f}, recorded {before:.3f}")
    for what in ("encode", "segment"):
        now, before = getattr(found, f"{what}_s"), getattr(recorded, f"{what}_s")
        print(f"{key}: {what:24} {now:6.2f} s, recorded {before:.2f} s: {before / now:.2f} × as fast")
    return right
