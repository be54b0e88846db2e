"""`iris push | pull | space`."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import tyro

from app.commands.references import Repeated
from iris_core import __version__
from iris_core.case import InputError


@dataclass(frozen=True)
class Push:
    """Push weights, or a task file, to a model repository on the Hugging Face Hub. Log in first: hf auth login."""

    repo_id: str
    """owner/name. It is made if it is not there."""
    weights: str | None = None
    """Checkpoint folder or name of released weights: model, bank, training record, model card."""
    task: Path | None = None
    """Or: a task file that `iris encode` wrote."""
    licence: str | None = None
    """Of the model card, for example cc-by-sa-4.0. Not needed where the folder's README.md names one."""
    report: Repeated = ()
    """Report that `iris evaluate --output` wrote with these weights: it becomes the card's results. May be repeated."""
    private: bool = False
    """Make a new repository private."""

    def run(self) -> int:
        from weights.hub import Place, parse_target, push

        if bool(self.weights) == bool(self.task) or (self.task and self.report):
            raise InputError("push either --weights, with any --report, or a --task file")
        parse_target(self.repo_id)
        files, card = self._weights() if self.weights else self._task()
        commit = push(self.repo_id, files, card, self.private, f"Iris {__version__}: {', '.join(files)}")
        print(f"pushed: {Place(self.repo_id, commit)}")
        return 0

    def _weights(self) -> tuple[dict, str]:
        from iris_core import checkpoint
        from weights import find_weights
        from weights.card import weights_card
        from weights.hub import NEEDED, OPTIONAL

        folder = find_weights(self.weights)
        checkpoint.load(folder)  # what cannot be used is not pushed
        files = {name: folder / name for name in (*NEEDED, *OPTIONAL) if (folder / name).is_file()}
        return files, weights_card(folder, self.repo_id, self.licence, self.report)

    def _task(self) -> tuple[dict, str | None]:
        from iris_core.task_file import read_about
        from weights.card import task_card
        from weights.hub import TASK_SUFFIX

        if not self.task.name.endswith(TASK_SUFFIX):
            raise InputError(f"{self.task}: the name of a task file must end in {TASK_SUFFIX}")
        about = read_about(self.task)
        card = task_card(self.task, about, self.repo_id, self.licence) if self.licence else None
        return {self.task.name: self.task}, card


@dataclass(frozen=True)
class Pull:
    """Fetch weights or a task file from the Hugging Face Hub, check them, and say where they are."""

    name: tyro.conf.Positional[str]
    """owner/name[@revision], or hf://owner/name[@revision]/file.task.safetensors. A revision is a branch, a tag or a
    commit."""
    output: Path | None = None
    """Copy them into this new folder; else they stay in the Hub's cache, where --weights finds them."""

    def run(self) -> int:
        from iris_core import checkpoint
        from iris_core.files import require_new, write_atomically
        from weights import hub

        place = hub.parse_weights(self.name)
        if place:
            found = hub.pull(place)
            checkpoint.load(found)
            files = [p for p in found.iterdir() if p.name in (*hub.NEEDED, *hub.OPTIONAL, hub.CARD, hub.HASHES)]
        elif self.name.startswith("hf:"):
            found = hub.find_task(self.name)
            files = [found]
        else:
            raise InputError(f"{self.name}: must be owner/name[@revision] or hf://owner/name[@revision]/file")
        commit = (found if place else found.parent).name
        if self.output:
            require_new(self.output)

            def write(temporary: Path) -> None:
                temporary.mkdir()
                for path in files:
                    shutil.copyfile(path, temporary / path.name)  # the cache has links

            write_atomically(self.output, write)
            found = self.output if place else self.output / found.name
        print(json.dumps({"name": self.name, "commit": commit, "path": str(found)}))
        return 0


@dataclass(frozen=True)
class Space:
    """Make a Hugging Face Space of the page with weights, and push it. Log in first: hf auth login."""

    repo_id: str | None = None
    """owner/name of the Space. It is made if it is not there."""
    output: Path | None = None
    """Only build the Space's folder, here: `python app.py` in it is what the Space runs."""
    weights: str = "iris-small"
    """Name of released weights, a checkpoint folder, or owner/name[@revision] on the Hub. They go into the Space."""
    private: bool = False
    """Make a new Space private."""

    def run(self) -> int:
        import tempfile

        from app.space import build_space
        from weights.hub import push_space

        if bool(self.repo_id) == bool(self.output):
            raise InputError("either --repo-id, to push the Space, or --output, to build its folder, must be given")
        if self.output:
            build_space(self.output, self.weights)
            print(f"Space: {self.output}")
            return 0
        with tempfile.TemporaryDirectory(prefix="iris-space-") as folder:
            build_space(Path(folder), self.weights)
            print(f"pushed: Space {self.repo_id} at {push_space(self.repo_id, Path(folder), self.private)}")
        return 0
