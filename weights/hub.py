"""Weights and task files on the Hugging Face Hub: how they are named, fetched, checked and pushed. Never a pickle."""

import glob
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from iris_core import __version__
from iris_core.case import InputError
from iris_core.files import read_json

CARD = "README.md"
NEEDED = ("config.json", "model.safetensors")
OPTIONAL = ("bank.safetensors", "training.json")
HASHES = "sha256.json"  # of every file but the card, which people edit on the Hub's own pages
TASK_SUFFIX = ".task.safetensors"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REPOSITORY = re.compile(rf"({_NAME}/{_NAME})(?:@([^\s@]+))?")
_TASK = re.compile(rf"hf://({_NAME}/{_NAME})(?:@([^\s@]+))?/([^/\s]+{re.escape(TASK_SUFFIX)})")


@dataclass(frozen=True)
class Place:
    """A repository at a revision: a branch, a tag or a commit; None is the newest."""

    repo_id: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo_id + (f"@{self.revision}" if self.revision else "")


def parse_weights(name: str) -> Place | None:
    """'owner/name[@revision]' → its place; None for everything else."""
    match = _REPOSITORY.fullmatch(name)
    return Place(*match.groups()) if match else None


def parse_target(repo_id: str) -> Place:
    """Where to push: 'owner/name'. Raises InputError for anything else."""
    place = parse_weights(repo_id)
    if place is None or place.revision:
        raise InputError(f"--repo-id must be owner/name, got {repo_id!r}")
    return place


def find_task(name: str | Path) -> Path:
    """A task file: a path as it is, 'hf://owner/name[@revision]/file.task.safetensors' fetched and checked."""
    if not str(name).startswith("hf:"):
        return Path(name)
    match = _TASK.fullmatch(str(name))
    if not match:
        raise InputError(f"{name}: a task file on the Hub must be hf://owner/name[@revision]/file{TASK_SUFFIX}")
    place, file = Place(*match.groups()[:2]), match[3]
    folder = _fetch(place, (file, HASHES))
    if not (folder / file).is_file():
        raise InputError(f"{place}: must hold {file}, found {_found(place)}; check the name")
    check_hashes(folder, (file,), str(place))
    return folder / file


def pull(place: Place) -> Path:
    """The checkpoint's folder in the Hub's cache (HF_HOME), checked; with HF_HUB_OFFLINE from the cache alone.

    Raises InputError where the repository is private, missing, not of Iris or not as it was pushed.
    """
    folder = _fetch(place, (*NEEDED, *OPTIONAL, CARD, HASHES))
    missing = [name for name in (*NEEDED, HASHES) if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{place}: not Iris weights that `iris push` made: {', '.join(missing)} must be there,"
            f" found {_found(place)}; choose another repository or revision"
        )
    check_hashes(folder, (*NEEDED, *OPTIONAL), str(place))
    _check_config(folder, place)
    return folder


def check_hashes(folder: Path, names: Iterable[str], what: str) -> None:
    """Raises InputError unless each file is the one that sha256.json lists, or is neither there nor listed."""
    advice = (
        f"do not use it. Delete {_to_delete(folder)} and fetch it again; if that does not help, choose another revision"
    )
    try:
        listed = dict(read_json(folder / HASHES))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{what}: {HASHES} must list the hash of every file, but is damaged; {advice}") from error
    for name in names:
        found = sha256(folder / name) if (folder / name).is_file() else None
        if found != listed.get(name):
            raise InputError(
                f"{what}: {name} was damaged or changed after it was pushed: its SHA-256 must be"
                f" {str(listed.get(name))[:16]}…, found {str(found)[:16]}…; {advice}"
            )


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def push(repo_id: str, files: Mapping[str, Path | bytes], card: str | None, private: bool, message: str) -> str:
    """One commit with files, their hashes and the card. Returns the commit.

    Weights replace weights and their card; task files are added beside what is there, and the card is written only
    where there is none. Raises InputError where the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    place, api = parse_target(repo_id), HfApi()
    new = {name: hashlib.sha256(_bytes(content)).hexdigest() for name, content in files.items()}
    with _explained(place, "pushed to"):
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        head = api.repo_info(repo_id).sha
        there = set(api.list_repo_files(repo_id, revision=head))
        gone = ({*NEEDED, *OPTIONAL} - {*files}) & there if NEEDED[0] in files else set()
        old = {}
        if HASHES in there:
            old = json.loads(Path(api.hf_hub_download(repo_id, HASHES, revision=head)).read_text("utf-8"))
        hashes = {name: digest for name, digest in old.items() if name in there - gone} | new
        if CARD in there and NEEDED[0] not in files:
            card = None
        elif card is None:
            raise InputError(f"{place}: has no model card yet, and it must name a licence; give it with --licence")
        written = (
            dict(files) | {HASHES: json.dumps(hashes, indent=1).encode()} | ({CARD: card.encode()} if card else {})
        )
        changes = [CommitOperationAdd(n, c if isinstance(c, bytes) else str(c)) for n, c in written.items()]
        changes += [CommitOperationDelete(name) for name in sorted(gone)]
        return api.create_commit(repo_id, changes, commit_message=message, parent_commit=head).oid


def push_space(repo_id: str, folder: Path, private: bool) -> str:
    """Push a Space's folder. Returns the commit. Raises InputError where the Hub refuses."""
    from huggingface_hub import HfApi

    place, api = parse_target(repo_id), HfApi()
    with _explained(place, "pushed to"):
        api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private or None, exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id, repo_type="space", folder_path=folder, commit_message=f"Iris {__version__}"
        ).oid


def _bytes(content: Path | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _fetch(place: Place, names: tuple[str, ...]) -> Path:
    """The snapshot's folder with those of the files that the repository has, and nothing else."""
    from huggingface_hub import snapshot_download

    with _explained(place, "fetched from"):
        patterns = [glob.escape(name) for name in names]
        return Path(snapshot_download(place.repo_id, revision=place.revision, allow_patterns=patterns))


def _check_config(folder: Path, place: Place) -> None:
    from iris_core.model.iris import IrisConfig

    try:
        IrisConfig(**read_json(folder / NEEDED[0]))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{place}: its config.json is not of a model that Iris {__version__} knows: {error}; update Iris, or choose"
            " another revision"
        ) from error


def _found(place: Place) -> str:
    """What the repository holds, for a message."""
    from huggingface_hub import HfApi, errors

    try:
        names = sorted(HfApi().list_repo_files(place.repo_id, revision=place.revision))
    except (errors.HTTPError, OSError):
        return "none of them in the cache"
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "nothing"


def _to_delete(folder: Path) -> Path:
    """In the Hub's cache a snapshot links to files that lie beside it: all of the repository goes."""
    return folder.parents[1] if folder.parent.name == "snapshots" else folder


@contextmanager
def _explained(place: Place, work: str) -> Iterator[None]:
    """What the Hub's client raises, as an InputError that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except InputError:
        raise
    except (errors.HTTPError, OSError, ValueError) as error:
        raise InputError(f"{place}: could not be {work} the Hub: {_reason(error, place)}") from error


def _reason(error: Exception, place: Place) -> str:
    from huggingface_hub import constants, errors

    chain = [e for e in (error, error.__cause__) if e is not None]
    status = next((e.response.status_code for e in chain if getattr(e, "response", None) is not None), None)
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no branch, tag or commit {place.revision!r}; choose one that {constants.ENDPOINT} shows"
    if constants.HF_HUB_OFFLINE:
        return (
            f"HF_HUB_OFFLINE is set, and the cache {constants.HF_HUB_CACHE} does not hold all of it; unset it once, for"
            f" `iris pull {place}`, or take a folder"
        )
    if status in (401, 403):
        return (
            f"it is private, or there is none of this name (status {status}); check the name, and log in with"
            " `hf auth login` or HF_TOKEN as somebody who may use it"
        )
    if status == 404:
        return f"{constants.ENDPOINT} has none of this name; check it. If a folder was meant: it is not there either"
    if status:
        return f"it answered {status}: {str(error).strip().splitlines()[-1]}; try again later"
    said = str(chain[-1]).strip().splitlines() or [type(error).__name__]
    return (
        f"the connection failed: {said[0]}; run it again, nothing half fetched is used, and files that came whole are"
        " kept"
    )
