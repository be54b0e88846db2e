"""`iris selftest`: 0 where the samples come out as recorded, 1 where they do not."""

import hashlib
from dataclasses import replace

import pytest

from app.cli import main
from app.commands import selftest
from app.commands.selftest import RECORDED, RECORDED_WITH
from app.sample_scans import samples
from weights import FOLDER


def test_the_samples_come_out_as_recorded(capsys):
    assert main(["selftest", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    for key, recorded in RECORDED.items():
        assert all(f"{key}: {name}" in said for name in (*recorded.dice, "encode", "segment"))
    assert "× as fast" in said and "FAILED" not in said


def test_every_sample_is_recorded_with_the_released_weights():
    assert RECORDED.keys() == samples().keys()
    assert hashlib.sha256((FOLDER / "iris-small" / "model.safetensors").read_bytes()).hexdigest() == RECORDED_WITH


@pytest.mark.parametrize("shift", [0.0, 0.009, -0.011, 0.011, None])
def test_a_dice_beyond_the_tolerance_fails(shift, monkeypatch, capsys):
    """None: a structure is not there at all."""

    def moved(service, key):
        dice = RECORDED[key].dice
        return replace(RECORDED[key], dice={} if shift is None else {name: d + shift for name, d in dice.items()})

    monkeypatch.setattr(selftest, "measured", moved)
    right = shift is not None and abs(shift) < selftest.TOLERANCE
    assert main(["selftest", "--device", "cpu"]) == (0 if right else 1)
    assert ("FAILED: hippocampus, heart" in capsys.readouterr().out) is not right


def test_other_weights_fail(monkeypatch, capsys):
    monkeypatch.setattr(selftest, "measured", lambda service, key: RECORDED[key])
    monkeypatch.setattr(selftest, "RECORDED_WITH", "0" * 64)
    assert main(["selftest", "--device", "cpu"]) == 1
    assert "FAILED: the figures were recorded with weights 000000000000" in capsys.readouterr().out


def test_a_device_that_there_is_not(capsys):
    assert main(["selftest", "--device", "nonsense"]) == 2
    assert "--device must be" in capsys.readouterr().err
