"""After a fault what exists is whole, and a repetition completes it. campaign.py tries a hundred of each."""

import pytest
from commands import COMMANDS
from trials import World

from runs import end_server

QUICK = "encode", "segment", "segment dicom", "label"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    yield World(tmp_path_factory.mktemp("faults"))
    end_server()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_is_completed_by_a_repetition(world, name):
    assert world.killed(name, 0.7) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_a_message_and_nothing_half_written(world, name):
    assert world.limited(name, 0.5) == []


@pytest.mark.parametrize("name", QUICK)
def test_two_at_once_leave_what_one_does(world, name):
    assert world.twice(name) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in QUICK])
def test_two_of_the_slow_ones_leave_what_one_does(world, name):
    assert world.twice(name) == []
