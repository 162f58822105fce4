"""Files with a few bytes changed anywhere: one line that names the file, or a right answer."""

import random

import pytest

from tests.helpers.damage import MUTATIONS
from tests.helpers.trials import refusal

pytestmark = pytest.mark.usefixtures("quiet_and_small")


EACH = 25  # files of each kind


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("how", MUTATIONS)
@pytest.mark.parametrize("name", ["ours.pt", "theirs.pt", "ours.npz", "theirs.npz"])
def test_mutated_files(whole, tmp_path, name, how):
    path = tmp_path / f"8{name[-4:].lstrip('sr')}"
    path.write_bytes(whole[name])
    assert refusal(path) is None
    for seed in range(EACH):
        path.write_bytes(MUTATIONS[how](whole[name], random.Random(f"{name} {how} {seed}")))
        refusal(path)
