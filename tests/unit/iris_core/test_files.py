"""How files are written: whole or not at all, and by one process at a time where that matters."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from iris_core.case import InputError
from iris_core.data.cache import read_index, write_index
from iris_core.files import HERE, WriteError, forget_the_dead, held, make_folder, require_new, write_atomically


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".{HERE}-{dead.pid}-1.nii.gz", tmp_path / f".{HERE}-{dead.pid}-2"
    left[0].write_text("half")
    (left[1] / "inside").mkdir(parents=True)
    others = tmp_path / f".{HERE}-{os.getpid()}-1.nii.gz", tmp_path / ".iris-elsewhere-99-1.csv", tmp_path / "mine"
    for path in others:
        path.write_text("stays")
    write_atomically(tmp_path / "new.json", lambda temporary: temporary.write_text("{}"))
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / "new.json"])


def test_a_folder_is_written_as_a_whole(tmp_path):
    def write(temporary, fails: bool) -> None:
        temporary.mkdir()
        (temporary / "first").write_text("1")
        if fails:
            raise OSError(28, "No space left on device")

    target = tmp_path / "space"
    with pytest.raises(WriteError, match="space: cannot be written: No space left on device; make room"):
        write_atomically(target, lambda temporary: write(temporary, True))
    assert not list(tmp_path.iterdir())
    target.mkdir()  # an empty one may be there
    require_new(target)
    write_atomically(target, lambda temporary: write(temporary, False))
    assert [path.name for path in target.iterdir()] == ["first"]
    with pytest.raises(InputError, match="must be a new or an empty folder"):
        require_new(target)


def test_what_a_library_wrote_beside_it_goes_too(tmp_path):
    def write(temporary) -> None:  # as safetensors does before it renames
        temporary.with_name(".tmpAbC").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(WriteError):
        write_atomically(tmp_path / "weights.safetensors", write)
    assert not list(tmp_path.iterdir())


def test_a_long_name_can_be_written(tmp_path):
    path = tmp_path / f"{'a' * 247}.nii.gz"[-255:]
    write_atomically(path, lambda temporary: temporary.write_text(temporary.name))
    assert path.read_text().endswith(".nii.gz")


def test_where_no_folder_can_be_it_is_a_message(tmp_path):
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "x"
    for attempt in (lambda: write_atomically(below, str), lambda: enter(tmp_path), lambda: make_folder(below)):
        with pytest.raises(WriteError, match="cannot be written"):
            attempt()


def enter(tmp_path) -> None:
    with held(tmp_path / "file" / "run"):
        pass


def test_one_process_at_a_time(tmp_path):
    with held(tmp_path), pytest.raises(InputError, match="another process writes there"), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_runs_that_fill_one_cache_at_once_all_stay_in_its_index(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_index(tmp_path, {f"Dataset{i:03d}": {"classes": []}}), range(8)))
    assert sorted(read_index(tmp_path)) == [f"Dataset{i:03d}" for i in range(8)]


@pytest.fixture(autouse=True)
def anew():
    forget_the_dead.cache_clear()
