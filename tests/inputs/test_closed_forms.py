"""A closed form by its options: which denoiser it is, of which images, and what it is called."""

import pytest
import torch

from models.machines.build import build_machine
from models.schedule import Schedule
from tests.helpers.runs import DIGITS, complaint
from utils.cli.options.sections import GenerateStage
from utils.cli.parse import parse
from utils.inputs.denoisers import closed_form_model, described_by, training_images

MACHINES = {
    "exact": ("exact", None, None),
    "wiener": ("wiener", None, None),
    "local": ("local", 3, None),
    "local by time": ("local", {2: 3, 9: 5}, None),
    "equivariant": ("equivariant", 3, None),
    "some patches": ("equivariant", 3, 40),
    "pca-local": ("pca-local", 3, None),
}
FLAGS = {
    "exact": ["--exact"],
    "wiener": ["--machine", "wiener"],
    "local": ["--machine", "local", "--patch-sides", "3"],
    "local by time": ["--machine", "local", "--patch-sides", "9:5,2:3"],
    "equivariant": ["--machine", "equivariant", "--patch-sides", "3"],
    "some patches": ["--machine", "equivariant", "--patch-sides", "3", "--most-patches", "40"],
    "pca-local": ["--machine", "pca-local", "--patch-sides", "3"],
}


def model_of(*flags):
    own = ["--config_path", DIGITS, "--train-size", "6"]
    options = parse(GenerateStage, [*own, *flags])
    settings = options.generate
    return closed_form_model(settings, described_by(options), settings.known())


@pytest.mark.parametrize("case", MACHINES)
def test_the_denoiser_is_that_of_the_options(case):
    name, sides, most = MACHINES[case]
    model = model_of(*FLAGS[case])
    assert model.k == 6
    patterns = training_images(model.args)
    expected = build_machine(name, patterns, Schedule(), sides, most)
    x_t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    denoiser = model.denoiser(torch.device("cpu"))
    assert type(denoiser) is type(expected)
    for t in (2, 9, 400):
        assert torch.equal(denoiser.x_0(x_t, t), expected.x_0(x_t, t))


def test_closed_forms_have_different_names():
    names = {case: model_of(*flags).fingerprint for case, flags in FLAGS.items()}
    assert len(set(names.values())) == len(FLAGS)
    assert (names["exact"], names["wiener"]) == ("exact", "wiener")
    assert names["local by time"] == "local, patch sides 2:3,9:5"
    assert names["some patches"] == "equivariant, patch sides 3, most patches 40"
    assert model_of("--machine", "exact").fingerprint == "exact"


def test_a_time_that_the_model_has_not():
    assert model_of("--machine", "local", "--patch-sides", "2:3,999:5").sides == {2: 3, 999: 5}
    with complaint("--patch-sides", "2:3,1000:5", "choose times 0 to 999"):
        model_of("--machine", "local", "--patch-sides", "2:3,1000:5")
