"""Model cards for the Hub: licence, what it learnt from, and results that come from `iris evaluate`, never by hand."""

import json
from collections.abc import Sequence
from pathlib import Path

from iris_core import __version__
from iris_core.case import InputError
from weights.hub import CARD, sha256

TAGS = ["medical-imaging", "segmentation", "in-context-learning", "3d"]
FIELDS = {"library_name": "iris-segmentation", "pipeline_tag": "image-segmentation", "tags": TAGS}
PAPER = "*Show and Segment* (CVPR 2025, [arXiv 2503.19359](https://arxiv.org/abs/2503.19359))"
WARNING = "**Not a medical device.** For research and teaching; look at every mask.\n"


def weights_card(folder: Path, repo_id: str, licence: str | None, reports: Sequence[Path]) -> str:
    """The folder's README.md, or a card made from training.json; with the licence and the reports' results.

    Raises InputError without a licence, and for a report of other weights.
    """
    from huggingface_hub import ModelCard

    results = [result for path in reports for result in _results(path, sha256(folder / "model.safetensors"))]
    written = folder / CARD
    card = ModelCard(written.read_text("utf-8") if written.is_file() else _weights_text(folder, repo_id, results))
    if results:
        card.data.model_name, card.data.eval_results = repo_id.split("/")[1], results
    return _licensed(card, licence, str(written))


def task_card(file: Path, about: dict, repo_id: str, licence: str | None) -> str:
    """A card for a repository of task files."""
    from huggingface_hub import ModelCard

    text = f"""---
{{}}
---
# {repo_id.split("/")[1]}

Task files of Iris, {PAPER}: what reference scans showed, without a voxel of them. `{file.name}` shows
{", ".join(about["names"])}; it goes with the weights whose SHA-256 begins with {about["weights_sha256"][:12]}.

{WARNING}
```bash
iris segment --task hf://{repo_id}/{file.name} --query scan.nii.gz --output masks
```
"""
    return _licensed(ModelCard(text), licence, "--licence")


def _licensed(card, licence: str | None, where: str) -> str:
    licence = licence or card.data.get("license")
    if not licence:
        raise InputError(
            f"{where}: the model card must name a licence, such as cc-by-sa-4.0; the training data's licences say"
            " which it may be; give it with --licence"
        )
    for field, value in {"license": licence, **FIELDS}.items():
        card.data[field] = licence if field == "license" else card.data.get(field) or value
    return str(card)


def _weights_text(folder: Path, repo_id: str, results: list) -> str:
    record = folder / "training.json"
    datasets = (json.loads(record.read_text("utf-8")) if record.is_file() else {}).get("datasets", {})
    rows = [f"| {name} | {len(d.get('train', []))} | {len(d.get('val', []))} |" for name, d in datasets.items()]
    learnt = "\n".join(["| dataset | training cases | validation cases |", "|---|---|---|", *rows])
    scores = [f"| {r.dataset_name} | {r.dataset_config} | {r.metric_name} | {r.metric_value:.3f} |" for r in results]
    measured = "\n".join(["| dataset | references | measure | value |", "|---|---|---|---|", *scores])
    return f"""---
{{}}
---
# {repo_id.split("/")[1]}

Weights of Iris {__version__}, {PAPER}: they take a reference scan with its mask and a query, and return the same
structures in the query.

{WARNING}
```bash
iris segment --weights {repo_id} --reference scan.nii.gz --mask mask.nii.gz --query patient2.nii.gz --output masks
```

## What it was trained on
{learnt if rows else "Not recorded."}

## What it does
{measured if scores else "No evaluation was given."}
"""


def _results(path: Path, weights_sha256: str) -> list:
    """A report that `iris evaluate --output` wrote, as the metadata of a model card."""
    from huggingface_hub import EvalResult

    try:
        report = json.loads(path.read_text("utf-8"))
        if report["weights_sha256"] != weights_sha256:
            raise InputError(
                f"{path}: a report must be of the weights that are pushed, {weights_sha256[:12]}…, found"
                f" {str(report['weights_sha256'])[:12]}…; run `iris evaluate` with them"
            )
        found = []
        for row in report["results"]:
            surface = f"mean surface Dice ({report['tolerance_mm']:g} mm)"
            measures = {"mean Dice": ("dice", row["mean_dice"]), surface: ("surface_dice", row["mean_surface_dice"])}
            for name, values in row["per_class"].items():
                measures[f"Dice, {name}"] = ("dice", values["dice_mean"])
            found += [
                EvalResult(
                    task_type="image-segmentation",
                    dataset_type=report["dataset"],
                    dataset_name=f"{report['dataset']} ({report['seen']})",
                    dataset_config=f"{row['strategy']}, {row['pool']} shown",
                    dataset_split=report["split"],
                    metric_type=kind,
                    metric_name=name,
                    metric_value=float(value),
                )
                for name, (kind, value) in measures.items()
                if value is not None
            ]
        return found
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: must be a report that `iris evaluate --output` wrote, got {error!r}") from error
