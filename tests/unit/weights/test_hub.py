"""Push and pull with the real client, over HTTP, against a hub on the loopback."""

import copy
import hashlib
import json
import multiprocessing
import threading
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import yaml
from hub_server import TOKEN, Hub, Repository, call

import weights
from app.cli import main
from iris_core import checkpoint
from iris_core.embeddings import MemoryBank
from iris_core.model.iris import PRESETS, Iris

NAME = "someone/iris-mine"
FILES = {"config.json", "model.safetensors", "bank.safetensors", "training.json", "README.md", "sha256.json"}


@pytest.fixture(scope="module")
def hub():
    hub = Hub()
    yield hub
    hub.shutdown()
    hub.server_close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run's folder, with more than a checkpoint's files in it."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    training = {"datasets": {"Dataset901_Balls": {"train": ["case0", "case1"], "val": ["case4"]}}}
    checkpoint.save(folder, Iris(PRESETS["tiny"]), MemoryBank(), training)
    (folder / "state.pt").write_bytes(b"a pickle")
    return folder


@pytest.fixture(scope="module")
def start(hub):
    """Start `iris …`, with the hub's address and a cache in ``folder``."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["pytest", "app.cli", "app.service", "httpx2", "yaml"])  # most of the time

    def start(folder: Path, *arguments, home="home", **environment):
        settings = {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(folder / home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        process = processes.Process(target=call, args=([str(a) for a in arguments], settings | environment, folder))
        process.start()
        return process

    return start


@pytest.fixture(scope="module")
def run(start):
    """Run `iris …` in a folder: exit code, output, errors."""

    def run(folder: Path, *arguments, **settings):
        process = start(folder, *arguments, **settings)
        process.join(120)
        texts = {name: (folder / name).read_text("utf-8") for name in ("output", "errors")}
        return SimpleNamespace(code=process.exitcode, **texts)

    return run


@pytest.fixture
def iris(run, tmp_path):
    return lambda *arguments, **settings: run(tmp_path, *arguments, **settings)


@pytest.fixture(scope="module")
def first_push(hub, run, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("push")
    done = run(folder, "push", "--weights", trained, "--repo-id", NAME, "--licence", "cc0-1.0")
    assert done.code == 0, done.errors
    return done.output.split("@")[1].strip(), copy.deepcopy(hub.repositories)


@pytest.fixture
def pushed(hub, first_push) -> str:
    """The hub with weights that `iris push` brought there, and nothing else. Returns the commit."""
    commit, repositories = first_push
    hub.repositories = copy.deepcopy(repositories)
    hub.requests.clear()
    hub.cut, hub.stall = 0, None
    hub.was_cut.clear()
    return commit


def test_push_then_pull_at_a_revision(hub, iris, trained, pushed, tmp_path, scan):
    first = hub.model(NAME).commits[pushed]
    assert set(first) == FILES | {".gitattributes"}  # and not the run's state, which is a pickle
    hub.model(NAME).tags["v1"] = pushed
    other = tmp_path / "other"
    checkpoint.save(other, Iris(PRESETS["tiny"]), MemoryBank(), {})
    assert iris("push", "--weights", other, "--repo-id", NAME, "--licence", "cc0-1.0").code == 0
    assert hub.model(NAME).newest["model.safetensors"] != first["model.safetensors"]

    pulled = iris("pull", f"{NAME}@v1", "--output", "pulled")
    assert pulled.code == 0, pulled.errors
    assert json.loads(pulled.output)["commit"] == pushed
    assert {p.name for p in (tmp_path / "pulled").iterdir()} == FILES
    for name in FILES - {"README.md", "sha256.json"}:
        assert (tmp_path / "pulled" / name).read_bytes() == (trained / name).read_bytes()

    shown = ["--reference", scan[0], "--mask", scan[1], "--query", scan[0], "--no-confidence"]
    masks = []
    for source in (trained, f"{NAME}@{pushed}"):
        out = tmp_path / f"out{len(masks)}"
        done = iris("segment", "--weights", source, *shown, "--output", out)
        assert done.code == 0, done.errors
        masks.append(np.asarray(nibabel.load(out / "scan.nii.gz").dataobj))
    assert (masks[0] == masks[1]).all()


def test_the_card_has_licence_and_the_reports_figures(hub, iris, trained, raw_data, tmp_path, pushed):
    report = tmp_path / "balls.json"
    asked = ["--dataset", "901", "--split", "all", "--draws", "1", "--raw-data", raw_data, "--output", report]
    assert main([str(a) for a in ["evaluate", "--weights", trained, *asked]]) == 0
    given = ["--licence", "cc-by-4.0", "--report", report]
    assert iris("push", "--weights", trained, "--repo-id", NAME, *given).code == 0
    _, front, text = hub.model(NAME).newest["README.md"].decode().split("---\n", 2)
    card, found = yaml.safe_load(front), json.loads(report.read_text())
    assert card["license"] == "cc-by-4.0"
    assert card["library_name"] == "iris-segmentation"
    result = card["model-index"][0]["results"][0]
    assert result["dataset"]["type"] == "Dataset901_Balls"
    assert result["metrics"][0] == {
        "type": "dice",
        "name": "mean Dice",
        "value": found["results"][0]["mean_dice"],
    }
    assert "Not a medical device" in text
    assert f"| {found['results'][0]['mean_dice']:.3f} |" in text

    found["weights_sha256"] = "0" * 64
    report.write_text(json.dumps(found))
    refused = iris("push", "--weights", trained, "--repo-id", NAME, *given)
    assert refused.code == 2
    assert "must be of the weights that are pushed" in refused.errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([NAME], "must name a licence"),
        (["x"], "--repo-id must be owner/name"),
        ([f"{NAME}@main"], "--repo-id must be owner/name"),
    ],
)
def test_what_is_not_pushed(iris, trained, arguments, message):
    refused = iris("push", "--weights", trained, "--repo-id", *arguments)
    assert refused.code == 2
    assert message in refused.errors


def test_who_may_push_and_pull(hub, iris, trained, pushed):
    stranger = {"HF_TOKEN": ""}
    refused = iris("push", "--weights", trained, "--repo-id", NAME, "--licence", "mit", **stranger)
    assert refused.code == 2
    assert NAME in refused.errors
    assert "log in" in refused.errors
    hub.model(NAME).private = True
    refused = iris("pull", NAME, **stranger)
    assert refused.code == 2
    assert NAME in refused.errors
    assert "private" in refused.errors
    assert "log in" in refused.errors
    assert iris("pull", NAME).code == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("someone/nothing", "none of this name"),
        (f"{NAME}@v9", "no branch, tag or commit 'v9'"),
        ("not a name", "must be owner/name"),
        (f"hf://{NAME}/other.task.safetensors", "must hold other.task.safetensors, found .gitattributes"),
        (f"hf://{NAME}/model.safetensors", "must be hf://owner/name"),
    ],
)
def test_what_is_not_there(iris, pushed, name, message):
    refused = iris("pull", name)
    assert refused.code == 2
    assert message in refused.errors
    assert name.removeprefix("hf://").split("/other")[0] in refused.errors


def test_a_changed_file_is_refused(hub, iris, pushed, tmp_path):
    assert iris("pull", NAME, "--output", "copy").code == 0
    changed = dict(hub.model(NAME).newest)
    changed["model.safetensors"] = changed["model.safetensors"][:-1] + b"?"
    tampered = hub.model(NAME).commit(changed)
    for name in (NAME, f"{NAME}@{tampered}"):
        refused = iris("pull", name)
        assert refused.code == 2
        assert NAME in refused.errors
        assert "model.safetensors was damaged or changed" in refused.errors
    without = {name: content for name, content in hub.model(NAME).newest.items() if name != "sha256.json"}
    hub.model(NAME).commit(without)
    assert "sha256.json must be there" in iris("pull", NAME).errors
    assert iris("pull", f"{NAME}@{pushed}").code == 0  # pinned

    for cached in tmp_path.glob("home/hub/models--*/blobs/*"):  # damage on this disk
        cached.write_bytes(cached.read_bytes()[:-1] + b"!")
    refused = iris("classes", "--weights", f"{NAME}@{pushed}", HF_HUB_OFFLINE="1")
    assert refused.code == 2
    assert "Delete" in refused.errors
    copied = tmp_path / "copy" / "model.safetensors"
    copied.write_bytes(copied.read_bytes()[:-1] + b"?")
    assert "was damaged or changed" in iris("classes", "--weights", "copy").errors


def test_only_known_files_are_fetched_and_never_a_pickle(hub, iris, pushed):
    pickles = {name: b"cos\nsystem\n(S'touch owned'\ntR." for name in ("pytorch_model.bin", "state.pt", "a/x.pkl")}
    hub.model(NAME).commit(hub.model(NAME).newest | pickles)
    assert iris("pull", NAME).code == 0
    assert hub.fetched() == FILES
    hub.model(NAME).commit(pickles)
    hub.requests.clear()
    refused = iris("pull", NAME)
    assert refused.code == 2
    assert "not Iris weights" in refused.errors
    assert "pytorch_model.bin" in refused.errors
    assert hub.fetched() == set()


def test_weights_of_another_version_are_refused(hub, iris, trained, pushed, tmp_path):
    known = json.loads((trained / "config.json").read_text())
    newer = json.dumps(known | {"novelty": 3}).encode()
    files = dict(hub.model(NAME).newest) | {"config.json": newer}
    hashes = json.loads(files["sha256.json"]) | {"config.json": hashlib.sha256(newer).hexdigest()}
    hub.model(NAME).commit(files | {"sha256.json": json.dumps(hashes).encode()})
    refused = iris("pull", NAME)
    assert refused.code == 2
    assert NAME in refused.errors
    assert "novelty" in refused.errors


def test_offline_the_cache_is_enough_and_nothing_is_asked(hub, iris, pushed):
    assert iris("pull", NAME).code == 0
    assert iris("pull", f"{NAME}@{pushed}").code == 0
    hub.requests.clear()
    for name in (NAME, f"{NAME}@{pushed}"):
        assert iris("pull", name, HF_HUB_OFFLINE="1").code == 0
    refused = iris("pull", NAME, HF_HUB_OFFLINE="1", home="another")
    assert refused.code == 2
    assert NAME in refused.errors
    assert "HF_HUB_OFFLINE" in refused.errors
    assert str(Path("another") / "hub") in refused.errors
    assert not hub.requests


def test_a_cut_connection_is_taken_up_again(hub, iris, pushed):
    released = Path(weights.__file__).parent / "iris-small"  # larger than the 10 MiB that the client keeps at a time
    files = {path.name: path.read_bytes() for path in released.iterdir() if path.is_file()}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    hub.repositories["models/someone/small"] = made = Repository()
    made.commit(files | {"sha256.json": json.dumps(hashes).encode()})
    hub.cut = 1
    pulled = iris("pull", "someone/small", "--output", "small")
    assert pulled.code == 0, pulled.errors
    again = [part for _, path, part in hub.requests if path.endswith(".safetensors") and part]
    assert len(again) == 1
    assert int(again[0].removeprefix("bytes=").removesuffix("-")) >= 2**20


def test_a_hub_that_cannot_be_reached(hub, iris, pushed):
    assert iris("pull", NAME).code == 0
    gone = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert iris("pull", NAME, **gone).code == 0  # from the cache
    failed = iris("pull", NAME, home="another", **gone)
    assert failed.code == 2
    assert NAME in failed.errors
    assert "the connection failed" in failed.errors


def test_a_killed_download_leaves_nothing_half(hub, start, iris, pushed, tmp_path):
    hub.cut, hub.stall = -1, threading.Event()
    process = start(tmp_path, "pull", NAME)
    assert hub.was_cut.wait(60)
    process.kill()
    process.join()
    hub.stall.set()
    hub.cut, hub.stall = 0, None
    refused = iris("pull", NAME, HF_HUB_OFFLINE="1")
    assert refused.code == 2
    assert "does not hold all of it" in refused.errors
    assert iris("pull", NAME).code == 0
    assert iris("pull", NAME, HF_HUB_OFFLINE="1").code == 0


def test_task_files_go_beside_the_weights(hub, iris, trained, pushed, scan, tmp_path):
    task = tmp_path / "ball.task.safetensors"
    shown = ["--reference", scan[0], "--mask", scan[1], "--names", "1=ball"]
    assert main([str(a) for a in ["encode", "--weights", trained, *shown, "--output", task]]) == 0
    card = hub.model(NAME).newest["README.md"]
    done = iris("push", "--task", task, "--repo-id", NAME)
    assert done.code == 0, done.errors
    assert set(hub.model(NAME).newest) == FILES | {".gitattributes", task.name}
    assert hub.model(NAME).newest["README.md"] == card
    alone = iris("push", "--task", task, "--repo-id", "someone/tasks")
    assert alone.code == 2
    assert "--licence" in alone.errors
    assert iris("push", "--task", task, "--repo-id", "someone/tasks", "--licence", "cc0-1.0").code == 0
    assert "shows\nball" in hub.model("someone/tasks").newest["README.md"].decode()

    masks = []
    for name in (task, f"hf://{NAME}@main/{task.name}"):
        out = tmp_path / f"out{len(masks)}"
        done = iris("segment", "--weights", NAME, "--task", name, "--query", scan[0], "--output", out)
        assert done.code == 0, done.errors
        masks.append(np.asarray(nibabel.load(out / "scan.nii.gz").dataobj))
    assert (masks[0] == masks[1]).all()

    hub.model(NAME).commit(hub.model(NAME).newest | {task.name: task.read_bytes()[:-1] + b"?"})
    refused = iris("pull", f"hf://{NAME}/{task.name}")
    assert refused.code == 2
    assert f"{task.name} was damaged or changed" in refused.errors


def test_a_space_is_pushed_whole(hub, iris, trained, pushed):
    done = iris("space", "--repo-id", "someone/page", "--weights", NAME)
    assert done.code == 0, done.errors
    files = hub.repositories["spaces/someone/page"].newest
    assert {"app.py", "README.md", "requirements.txt", "LICENSE", "app/ui/page.py", "app/samples/samples.json"} <= set(
        files
    )
    assert files["weights/iris-mine/model.safetensors"] == (trained / "model.safetensors").read_bytes()
    assert b"models: [someone/iris-mine]" in files["README.md"]
    assert b'build("iris-mine"' in files["app.py"].replace(b"'", b'"')
