"""Energies: quadrature, the path integral against closed forms, and the original's numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.exact import ExactDenoiser
from models.schedule import Schedule
from tests.helpers.runs import DIGITS, assert_one_line, run_here, run_script, train_options
from utils.cli.options.sections import EnergyStage
from utils.cli.parse import parse
from utils.data.datasets import load_image_set, to_float
from utils.inputs.checkpoints import denoiser_of, load_checkpoint
from utils.stages.energy import stage as stage
from utils.stages.energy.files import load_energies
from utils.stages.energy.path_integral import (
    energy,
    energy_gradient,
    gauss_rule,
    path_integrals,
    published_gradient,
    published_rule,
)
from utils.stages.train import stage as train


@pytest.fixture(scope="module")
def digits():
    """Real digits in float64, [40, 1, 8, 8] in [-1, 1]."""
    return to_float(load_image_set("digits", ".", 8, 1).read(range(40))).double()


@pytest.mark.parametrize("points", [2, 3, 9, 10, 11, 20, 37, 200])
def test_rules_are_exact_for_polynomials(points):
    """A panel of n nodes integrates degree 2 n - 1, half of it ceil(n / 2) - 1."""
    rule = gauss_rule(points)
    smallest = points // -(-points // 10)
    assert len(rule.nodes) == points and (np.diff(rule.nodes) > 0).all()
    assert rule.nodes[0] > 0 and rule.nodes[-1] < np.pi / 2
    for weights, degree in (
        (rule.weights, 2 * smallest - 1),
        (rule.half, -(-smallest // 2) - 1),
    ):
        for power in range(degree + 1):
            wanted = (np.pi / 2) ** (power + 1) / (power + 1)
            assert (rule.nodes**power * weights).sum() == pytest.approx(wanted, rel=1e-10)
    used = (rule.half != 0).sum()
    assert points / 2 <= used <= points / 2 + len(rule.nodes) / 10 + 1


def test_rules_agree_with_scipy():
    from scipy.integrate import quad

    def f(a):
        return np.exp(np.sin(3 * a)) * np.cos(a)

    rule = gauss_rule(40)
    assert (f(rule.nodes) * rule.weights).sum() == pytest.approx(
        quad(f, 0, np.pi / 2)[0], rel=1e-12
    )


def test_the_published_rule_weighs_both_ends_fully():
    rule = published_rule()
    assert rule.nodes[0] == 0 and rule.nodes[-1] == np.pi / 2 and len(rule.nodes) == 20
    assert rule.weights.sum() == pytest.approx(np.pi / 2 * 20 / 19)


@pytest.mark.parametrize("points", [0, 1])
def test_too_few_points(points):
    with pytest.raises(ValueError, match="give 2 or more"):
        gauss_rule(points)


def closed_form(denoiser, x, r, t):
    beta = denoiser.schedule.beta[t].item()
    u_x, u_r = (energy(denoiser.log_density(images, t), images, beta) for images in (x, r))
    return (u_r[:, None] - u_x[None]).numpy()


def absolute_integral(gradient, x, r, rule):
    """The integral of |grad u . x'|: the scale that an error is to be compared with."""
    total = np.zeros((len(r), len(x)))
    cos, sin = (torch.from_numpy(f(rule.nodes)).reshape(-1, 1, 1, 1) for f in (np.cos, np.sin))
    for i, j in np.ndindex(total.shape):
        along = gradient(cos * x[j] + sin * r[i]) * (cos * r[i] - sin * x[j])
        total[i, j] = rule.weights @ along.flatten(1).sum(1).abs().numpy()
    return total


@pytest.mark.parametrize(
    ("k", "t"), [(1, 0), (1, 50), (1, 999), (16, 50), (16, 200), (16, 500), (16, 999)]
)
def test_the_path_integral_is_the_difference_of_energies(digits, k, t):
    """To 1e-6 of the integral of |grad u . x'|."""
    denoiser = ExactDenoiser(digits[:k], Schedule())
    x, r = torch.cat([digits[:2], digits[30:32]]), digits[20:22]
    gradient, rule = (
        energy_gradient(denoiser, t),
        gauss_rule(20 if k == 1 else 400 if t > 50 else 4000),
    )
    found, _ = path_integrals(gradient, x, r, rule, 64)
    scale = absolute_integral(gradient, x, r, rule)
    assert (np.abs(found - closed_form(denoiser, x, r, t)) <= 1e-6 * scale).all()


def test_at_t_0_it_holds_on_a_path_that_is_split_at_the_borders(digits):
    """Between two patterns the force jumps: adaptive quadrature, told where the jumps are."""
    from scipy.integrate import quad

    denoiser, t = ExactDenoiser(digits[:16], Schedule()), 0
    x, r = digits[30], digits[21]
    gradient = energy_gradient(denoiser, t)

    def point(a):
        return np.cos(a) * x + np.sin(a) * r

    def along(a):
        return (gradient(point(a)[None])[0] * (np.cos(a) * r - np.sin(a) * x)).sum().item()

    def nearest(a):
        return denoiser.weights(point(a)[None], t).argmax().item()

    borders, grid = [], np.linspace(0, np.pi / 2, 400)
    for low, high in zip(grid, grid[1:], strict=False):
        if nearest(low) != nearest(high):
            for _ in range(50):  # halve down to the border
                middle = (low + high) / 2
                low, high = (middle, high) if nearest(middle) == nearest(low) else (low, middle)
            borders.append(low)
    assert borders  # else the test would say nothing
    edges = [0, *borders, np.pi / 2]
    parts = [
        quad(along, a, b, limit=200, epsrel=1e-10)[0]
        for a, b in zip(edges, edges[1:], strict=False)
    ]
    sizes = [
        quad(lambda a: abs(along(a)), a, b, limit=200)[0]
        for a, b in zip(edges, edges[1:], strict=False)
    ]
    wanted = closed_form(denoiser, x[None], r[None], t)[0, 0]
    assert abs(sum(parts) - wanted) <= 1e-6 * sum(sizes)


def test_half_as_many_points_tell_the_error(digits):
    """Where the path is hard (t = 0, 16 patterns) the difference is of the error's size."""
    denoiser = ExactDenoiser(digits[:16], Schedule())
    x, r = digits[24:32], digits[20:22]
    for t, small in ((0, False), (500, True)):
        wanted = closed_form(denoiser, x, r, t)
        found, half = path_integrals(energy_gradient(denoiser, t), x, r, gauss_rule(20), 64)
        told, error = np.abs(found - half), np.abs(found - wanted)
        assert np.median(error) <= np.median(told)
        assert (np.median(told) < 1e-3 * np.median(np.abs(wanted))) == small


def test_the_sign_says_who_lies_deeper(digits):
    """A pattern lies deeper than an image that is none: positive, and more so for smaller t."""
    denoiser = ExactDenoiser(digits[:4], Schedule())
    found = [
        path_integrals(
            energy_gradient(denoiser, t), digits[:4], digits[20:23], gauss_rule(200), 64
        )[0]
        for t in (50, 300)
    ]
    assert (found[0] > 0).all() and (found[0] > found[1]).all()


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_batches_and_companions_change_nothing(digits, batch):
    denoiser = ExactDenoiser(digits[:5], Schedule())
    gradient, rule = energy_gradient(denoiser, 10), gauss_rule(11)
    x, r = digits[10:16].float(), digits[20:23].float()
    whole, half = path_integrals(gradient, x, r, rule, 50)
    found, found_half = path_integrals(gradient, x, r, rule, batch)
    np.testing.assert_allclose(found, whole, rtol=1e-12)
    np.testing.assert_allclose(found_half, half, rtol=1e-12)
    one, _ = path_integrals(gradient, x[2:3], r[1:2], rule, 50)
    assert one[0, 0] == whole[1, 2]


def test_a_force_that_is_not_finite_is_refused(digits):
    with pytest.raises(ValueError, match="NaN or infinite"):
        path_integrals(lambda x: x / 0, digits[:1], digits[1:2], gauss_rule(4), 8)


def test_the_original_s_numbers(shared):
    """To 1e-4, or to the rounding of the original's float32 sums where the terms cancel."""
    found = np.load(shared / "reference" / "potential_16.npz")
    path = shared / "reference" / "16.pt"
    denoiser = denoiser_of(load_checkpoint(path), path, torch.device("cpu"), "float32")
    samples, refs = (torch.from_numpy(found[key]) for key in ("samples", "refs"))
    ours, _ = path_integrals(published_gradient(denoiser), samples, refs, published_rule(), 64)
    np.testing.assert_allclose(ours, found["potential_reference"], rtol=1e-4, atol=2e-8)
    right, _ = path_integrals(energy_gradient(denoiser, 0), samples, refs, gauss_rule(20), 64)
    assert np.median(np.abs(right / ours)) > 10  # nothing else uses that arithmetic


# Through the script


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    train.run(train_options(folder))
    images = to_float(load_image_set("digits", ".", 8, 1).read(range(100, 103))).numpy()
    np.savez(folder / "ref.npz", samples=images)
    return folder


def measure(made, *flags):
    own = ["--ckpt-path", made / "models", "--ref-path", made / "ref.npz", *flags]
    stage.run(parse(EnergyStage, [str(flag) for flag in own]))


def test_every_sample_against_every_reference(made, tmp_path):
    measure(made, "--result-path", tmp_path / "e", "--batch-size", 50)
    found = load_energies(tmp_path / "e" / "8.npz")
    assert found.potential.shape == found.difference.shape == (3, 8)
    assert found.args["energy"]["path_points"] == 20 and found.args["train"]["train_size"] == 8
    assert (tmp_path / "e" / "figures" / "energies.png").is_file()
    measure(made, "--result-path", tmp_path / "f", "--sample-size", 3, "--batch-size", 50)
    part = load_energies(tmp_path / "f" / "8.npz")
    assert np.array_equal(part.potential, found.potential[:, :3])


def test_the_result_lies_beside_the_models_by_default(made, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "8.pt").write_bytes((made / "models" / "8.pt").read_bytes())
    own = ["--ckpt-path", tmp_path / "models", "--ref-path", made / "ref.npz"]
    stage.run(parse(EnergyStage, [str(flag) for flag in own]))
    assert (tmp_path / "energies" / "8.npz").is_file()


def test_the_exact_model_gives_its_closed_form(made, tmp_path):
    done = run_script(
        *("run_energy.py", "--config_path", DIGITS, "--exact", "--train-size", 5, "--t", 60),
        *("--ref-path", made / "ref.npz", "--result-path", tmp_path, "--path-points", 2000),
    )
    assert done.returncode == 0, done.stderr
    found = load_energies(tmp_path / "5.npz")
    images = load_image_set("digits", ".", 8, 1)
    from utils.data.subsets import permutation

    patterns = to_float(images.read(permutation(len(images), 3407)[:5])).double()
    refs = torch.from_numpy(np.load(made / "ref.npz")["samples"]).double()
    wanted = closed_form(ExactDenoiser(patterns, Schedule()), patterns, refs, 60)
    np.testing.assert_allclose(found.potential, wanted, rtol=1e-5)
    assert np.abs(found.difference).max() < 1e-4 * np.abs(wanted).max()


def test_other_options_and_references_are_noticed(made, tmp_path):
    flags = ["--ckpt-path", made / "models", "--result-path", tmp_path]
    measure(made, "--result-path", tmp_path)
    run = ["run_energy.py", *flags, "--ref-path"]
    done = run_here(*run, made / "ref.npz", "--t", 5)
    assert_one_line(done, "8.npz", "energy: t 0 (now 5)", "--overwrite")
    np.savez(tmp_path / "other.npz", samples=np.zeros((1, 8, 8), np.float32))  # one image
    assert_one_line(run_here(*run, tmp_path / "other.npz"), "8.npz", "energy: references")


def test_doubt_is_told(made, tmp_path, capsys):
    measure(made, "--result-path", tmp_path, "--path-points", 2)
    assert "--path-points 2: the path integral differs by" in capsys.readouterr().out


def bad(case, tmp_path):
    images = np.zeros((2, 1, 8, 8), np.float32)
    if case == "shape":
        images = np.zeros((2, 1, 16, 16), np.float32)
    elif case == "nan":
        images[1, 0, 0, 0] = np.nan
    elif case == "range":
        images += 200
    elif case == "none":
        images = images[:0]
    path = tmp_path / "bad.npz"
    if case == "key":
        np.savez(path, images=images)
    elif case == "text":
        path.write_text("hello")
    elif case != "missing":
        np.savez(path, samples=images)
    return path


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("shape", ("bad.npz", "[2, 1, 16, 16]", "[N, 1, 8, 8]")),
        ("nan", ("bad.npz", "NaN")),
        ("range", ("bad.npz", "scale them to [-1, 1]")),
        ("none", ("bad.npz", "no samples")),
        ("key", ("bad.npz", "no 'samples'")),
        ("text", ("bad.npz", "no readable .npz")),
        ("missing", ("bad.npz",)),
    ],
)
def test_bad_references(made, tmp_path, case, words):
    paths = ["--ckpt-path", made / "models", "--result-path", tmp_path / "out"]
    done = run_here("run_energy.py", *paths, "--ref-path", bad(case, tmp_path))
    assert_one_line(done, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--t", -1], ("--t", "-1")),
        (["--t", 20], ("--t", "20", "choose 0 to 19")),
        (["--path-points", 1], ("--path-points", "1", "2 to")),
        (["--as-published", "--t", 3], ("--as-published", "--t 3")),
        (["--as-published", "--path-points", 40], ("--as-published", "--path-points 40")),
        (["--sample-size", 0], ("--sample-size", "0")),
    ],
)
def test_mistakes(made, tmp_path, flags, words):
    paths = ["--ckpt-path", made / "models", "--ref-path", made / "ref.npz"]
    done = run_here("run_energy.py", *paths, "--result-path", tmp_path / "out", *flags)
    assert_one_line(done, *words)


def test_a_reference_file_is_required(made):
    done = run_script("run_energy.py", "--ckpt-path", made / "models")
    assert_one_line(done, "--ref-path", "nothing")


def test_as_published_through_the_script(shared, tmp_path):
    """A folder of K.pt and samples, as the original's user has them."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "16.pt").write_bytes((shared / "reference" / "16.pt").read_bytes())
    found = np.load(shared / "reference" / "potential_16.npz")
    args = load_checkpoint(shared / "reference" / "16.pt").args
    np.savez(tmp_path / "ref.npz", samples=found["refs"])
    (tmp_path / "s").mkdir()
    np.savez(tmp_path / "s" / "16.npz", samples=found["samples"], args=json.dumps(args))
    own = ["--ckpt-path", tmp_path / "models", "--sample-path", tmp_path / "s"]
    own += ["--ref-path", tmp_path / "ref.npz", "--as-published", "--result-path", tmp_path / "e"]
    stage.run(parse(EnergyStage, [str(flag) for flag in own]))
    ours = load_energies(Path(tmp_path / "e" / "16.npz")).potential
    np.testing.assert_allclose(ours, found["potential_reference"], rtol=1e-4, atol=2e-8)
