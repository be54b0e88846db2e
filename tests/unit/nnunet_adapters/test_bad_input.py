"""Every bad input: a message that names the file, exit code 2 (or 1 for a query), nothing left behind."""

import pytest
from bad_files import BAD_MASKS, BAD_SCANS, bomb

from app.cli import main
from iris_core.case import InputError
from nnunet_adapters.images import read_reference, read_scan


@pytest.fixture(params=BAD_SCANS)
def bad(request, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    make, message = BAD_SCANS[request.param]
    return make(folder / "scan.nii.gz"), message


def run(capsys, *arguments) -> tuple[int, str]:
    code = main([str(a) for a in arguments])
    return code, capsys.readouterr().err


def test_a_bad_reference_is_refused_in_the_terminal(bad, scan, tmp_path, tiny_weights, capsys):
    path, message = bad
    out = tmp_path / "out"
    code, error = run(
        capsys,
        "segment",
        "--weights",
        tiny_weights,
        "--reference",
        path,
        "--mask",
        scan[1],
        "--query",
        scan[0],
        "--output",
        out,
    )
    assert code == 2
    assert path.name in error
    with pytest.raises(InputError, match=message):
        read_scan(path)
    assert not out.exists()


def test_a_bad_query_is_reported_and_the_others_are_done(bad, scan, tmp_path, tiny_weights, capsys):
    path, _ = bad
    out = tmp_path / "out"
    code, error = run(
        capsys, "segment", "--weights", tiny_weights, "--reference", scan[0], "--mask", scan[1],
        "--query", path, scan[1], "--output", out,
    )  # fmt: skip
    assert code == (2 if path.suffix == ".txt" else 1)
    assert path.name in error
    if code == 1:
        assert sorted(p.name for p in out.iterdir()) == ["mask.nii.gz", "run.json"]


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_a_bad_mask_is_refused(kind, scan, tmp_path, tiny_weights, capsys):
    make, message = BAD_MASKS[kind]
    mask = make(tmp_path / "bad_mask.nii.gz")
    out = tmp_path / "out"
    code, error = run(
        capsys,
        "segment",
        "--weights",
        tiny_weights,
        "--reference",
        scan[0],
        "--mask",
        mask,
        "--query",
        scan[0],
        "--output",
        out,
    )
    assert code == 2
    assert "bad_mask.nii.gz" in error
    with pytest.raises(InputError, match=message):
        read_reference(scan[0], mask)
    assert not out.exists()


def test_a_hostile_header_takes_no_memory(tmp_path):
    import tracemalloc

    path = bomb(tmp_path / "scan.nii.gz")
    tracemalloc.start()
    with pytest.raises(InputError):
        read_scan(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize("folder_content", ["nothing", "weights of another model", "text"])
def test_bad_weights_are_refused(folder_content, scan, tmp_path, tiny_weights, capsys):
    folder = tmp_path / "weights"
    folder.mkdir()
    if folder_content != "nothing":
        (folder / "config.json").write_bytes((tiny_weights / "config.json").read_bytes())
        (folder / "model.safetensors").write_bytes(b"not tensors" * 10)
    if folder_content == "weights of another model":
        from safetensors.torch import save_file
        from torch import zeros as tensor

        save_file({"a": tensor(3)}, folder / "model.safetensors")
    code, error = run(
        capsys, "segment", "--weights", folder, "--reference", scan[0], "--mask", scan[1], "--query", scan[0],
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert code == 2
    assert str(folder) in error
