"""Every stage with every closed form on 8 x 8 digits, beside what is computed without it."""

import json

import numpy as np
import pytest
import torch

from models.machines.build import build_machine
from models.samplers import draw_images
from models.schedule import Schedule
from tests.helpers.models import closed_form
from tests.helpers.runs import QUICK, assert_one_line, ok, run_here
from utils.cli.progress import print_once
from utils.data.datasets import load_image_set, to_float
from utils.inputs.denoisers import training_images
from utils.inputs.samples import load_synthetics
from utils.stages.critical_times.files import load_times
from utils.stages.curvature.files import load_curvature
from utils.stages.energy.files import load_energies
from utils.stages.energy.path_integral import energy_gradient, gauss_rule, path_integrals
from utils.stages.generalization.files import load_arrays, load_measured

K = 6
WHOLE_IMAGE = 15  # the side of a patch that covers 8 x 8 pixels around each of them
MACHINES = {  # flags, and what `build_machine` takes
    "wiener": ([], ()),
    "local": (["--patch-sides", 3], (3,)),
    "equivariant": (["--patch-sides", "2:3,20:5", "--most-patches", 40], ({2: 3, 20: 5}, 40)),
    "pca-local": (["--patch-sides", 3], (3,)),
}
DATA = [*QUICK, "--train-size", K]


def chosen(name):
    return ["--machine", name, *MACHINES[name][0]]


def drawn(folder, name, *flags):
    """The set of a closed form, synthetics/K.npz."""
    paths = ["--result-path", folder / "g" / name, "--synth-path", folder / "s" / name]
    ok("run_generate.py", *DATA, *flags, *paths, "--num-samples", 8, run=run_here)
    return load_synthetics(folder / "s" / name / f"{K}.npz")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    for name in MACHINES:
        drawn(folder, name, *chosen(name))
    drawn(folder, "exact", "--exact")
    references = to_float(load_image_set("digits", ".", 8, 1).read(range(100, 102)))
    np.savez(folder / "ref.npz", samples=references.numpy())
    return folder


@pytest.fixture(scope="module")
def patterns(sets):
    return training_images(load_synthetics(sets / "s" / "exact" / f"{K}.npz").args)


def denoiser_of(name, patterns):
    return build_machine(name, patterns, Schedule(30), *MACHINES[name][1])


@pytest.mark.parametrize("name", MACHINES)
def test_samples_are_those_of_the_machine(sets, patterns, name):
    result = load_synthetics(sets / "s" / name / f"{K}.npz")
    seeds = range(3407, 3415)
    expected = torch.cat([*draw_images(denoiser_of(name, patterns), seeds, "ddim", 6, 256)])
    assert np.array_equal(result.samples, expected.numpy())
    assert result.args["generate"]["machine"] == name and not result.args["generate"]["exact"]


def measured(script, load, target, *flags):
    done = ok(script, *DATA, *flags, "--result-path", target, run=run_here)
    return load(target / f"{K}.npz"), done


@pytest.mark.parametrize("name", MACHINES)
def test_energies(sets, patterns, tmp_path, name):
    """Of the Wiener denoiser from its density, with which the path integral agrees. Of the others
    the path integral, and a line that it depends on the path."""
    print_once.cache_clear()
    points = 2 if name == "wiener" else 5
    flags = [*chosen(name), "--ref-path", sets / "ref.npz", "--t", 15, "--path-points", points]
    result, done = measured("run_energy.py", load_energies, tmp_path, *flags)
    denoiser = denoiser_of(name, patterns)
    references = torch.from_numpy(np.load(sets / "ref.npz")["samples"])

    def path(points):
        force = energy_gradient(denoiser, 15)
        return path_integrals(force, patterns, references, gauss_rule(points), 64)[0]

    said = f"--machine {name}: its score is not a gradient"
    if name == "wiener":
        expected = closed_form(denoiser, patterns, references, 15)
        np.testing.assert_allclose(result.potential, expected, rtol=1e-6)
        np.testing.assert_allclose(path(40), expected, rtol=1e-5)
        assert np.abs(path(2) / expected - 1).max() > 1e-3  # two points are too few
        np.testing.assert_allclose(result.difference, path(2) - expected, rtol=1e-3)
        assert said not in done.stdout
    else:
        np.testing.assert_allclose(result.potential, path(5), rtol=1e-6)
        assert done.stdout.count(said) == 1


@pytest.mark.parametrize("name", MACHINES)
def test_curvature(patterns, tmp_path, name):
    """Every eigenvalue from derivatives in float64; of patch machines J is not symmetric."""
    flags = [*chosen(name), "--sample-size", 2, "--t", 29, "--normal-points", 0]
    result, _ = measured("run_curvature.py", load_curvature, tmp_path, *flags)
    a = Schedule(30).alpha_bar[29].item()
    if name == "wiener":
        covariance = np.cov(patterns.flatten(1).double().numpy().T, bias=True)
        expected = np.sort(1 / (a * np.linalg.eigvalsh(covariance) + 1 - a))
        np.testing.assert_allclose(result.eigenvalues, np.broadcast_to(expected, (2, 1, 64)), 1e-9)
        assert (result.asymmetry < 1e-10).all()
    else:
        x, denoiser = patterns[:1].double() * a**0.5, denoiser_of(name, patterns)
        jacobian = torch.autograd.functional.jacobian(lambda x: denoiser.eps(x, 29), x)
        hessian = jacobian.reshape(64, 64) / (1 - a) ** 0.5
        expected = torch.linalg.eigvalsh((hessian + hessian.T) / 2)
        scale = expected.abs().max().item()
        np.testing.assert_allclose(result.eigenvalues[0, 0], expected, atol=1e-9 * scale)
        assert (result.asymmetry > 1e-6).all()


def measured_times(target, *flags):
    # at 0.5 some copies of most digits return
    own = [*flags, "--delta", 0.5, "--search", "scan", "--stride", 4]
    return measured("run_critical_times.py", load_times, target, *own)[0]


@pytest.mark.parametrize("name", MACHINES)
def test_critical_times(tmp_path, name):
    result = measured_times(tmp_path, *chosen(name))
    section = result.args["critical_times"]
    assert section["machine"] == name and section["checkpoint"].startswith(name)
    assert (result.critical_time <= result.time.max(1)).all()


def test_a_patch_of_the_whole_image_is_the_exact_model(tmp_path):
    exact = measured_times(tmp_path / "e", "--exact")
    whole = ["--machine", "local", "--patch-sides", WHOLE_IMAGE]
    local = measured_times(tmp_path / "l", *whole)
    assert np.array_equal(local.time, exact.time) and exact.time.any()
    linear = measured_times(tmp_path / "w", "--machine", "wiener")
    assert not np.array_equal(linear.time, exact.time)


def generalized(sets, target, name, *flags):
    own = [*QUICK, *flags, "--synth-path", sets / "s" / name, "--result-path", target]
    return run_here("run_generalization.py", *own)


@pytest.mark.parametrize("name", MACHINES)
def test_generalization(sets, patterns, tmp_path, name):
    done = generalized(sets, tmp_path, name, *chosen(name))
    assert done.returncode == 0, done.stderr
    stored = load_measured(tmp_path / f"{K}.json")
    assert {"memorizer", "denoising-gap", "c-t"} <= set(stored.findings)
    away = load_arrays(tmp_path / f"{K}.json")["held-out-memorizer"]  # 0 for the memorizer itself
    assert (away.mean(1) > 1e-3).all()


def test_samples_of_one_machine_are_not_those_of_another(sets, tmp_path):
    local = chosen("local")
    for name, flags in (
        ("exact", local),
        ("local", ["--exact"]),
        ("local", ["--machine", "local", "--patch-sides", 5]),
        ("equivariant", ["--machine", "equivariant", "--patch-sides", "2:3,20:5"]),
        ("pca-local", local),
    ):
        done = generalized(sets, tmp_path / "out", name, *flags)
        assert_one_line(done, f"{K}.npz: found samples of weights {name}", "not of ")
    assert not (tmp_path / "out").exists()
    # a finished set is not that of another machine either
    for flags in (["--exact"], ["--machine", "wiener"], ["--machine", "local", "--patch-sides", 5]):
        with_flags = [*DATA, *flags, "--result-path", sets / "g" / "local", "--num-samples", 8]
        done = run_here("run_generate.py", *with_flags, "--synth-path", sets / "s" / "local")
        assert_one_line(done, "a file made with generate: ", "--overwrite")


def test_second_sets_are_drawn_from_the_same_machine(sets, tmp_path):
    (tmp_path / "second.yaml").write_text("train: {subset: second}\n")
    second = [*QUICK, tmp_path / "second.yaml", "--train-size", K, "--num-samples", 8]
    for name, flags in (("wiener", chosen("wiener")), ("exact", ["--exact"])):
        paths = ["--result-path", tmp_path / "g" / name, "--synth-path", tmp_path / "s" / name]
        ok("run_generate.py", *second, *flags, *paths, run=run_here)
    own = [*chosen("wiener"), "--second-synth-path"]
    done = generalized(sets, tmp_path / "out", "wiener", *own, tmp_path / "s" / "exact")
    assert_one_line(done, "--exact True", "with False", "draw both sets with the same options")
    assert not (tmp_path / "out").exists()
    done = generalized(sets, tmp_path / "out", "wiener", *own, tmp_path / "s" / "wiener")
    assert done.returncode == 0, done.stderr
    assert "two-models" in load_measured(tmp_path / "out" / f"{K}.json").findings


STAGES = {
    "run_generate.py": ("generate", ["--num-samples", 4]),
    "run_critical_times.py": ("critical_times", ["--delta", 0.5]),
    "run_energy.py": ("energy", []),
    "run_curvature.py": ("curvature", ["--normal-points", 0]),
    "run_generalization.py": ("generalization", []),
}


def stage_flags(script, sets, target):
    flags = [*(DATA if script != "run_generalization.py" else QUICK), *STAGES[script][1]]
    if script == "run_generate.py":
        return [*flags, "--result-path", target / "g", "--synth-path", target / "out"]
    if script == "run_energy.py":
        flags += ["--ref-path", sets / "ref.npz"]
    if script == "run_generalization.py":
        flags += ["--synth-path", sets / "s" / "exact"]
    return [*flags, "--result-path", target / "out"]


def arrays_of(path):
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def without_paths(args):
    paths = ("result_path", "synth_path")
    return {
        name: {key: x for key, x in section.items() if key not in paths}
        if isinstance(section, dict)
        else section
        for name, section in args.items()
    }


@pytest.mark.parametrize("script", STAGES)
def test_machine_exact_is_exact(sets, tmp_path, script):
    """The same bytes, the same options in the file, and what one has finished the other leaves."""
    found = []
    for name, flags in (("a", ["--exact"]), ("b", ["--machine", "exact"])):
        ok(script, *stage_flags(script, sets, tmp_path / name), *flags, run=run_here)
        arrays = arrays_of(tmp_path / name / "out" / f"{K}.npz")
        found.append((without_paths(json.loads(str(arrays.pop("args")))), arrays))
    (args, ours), (others_args, others) = found
    assert args == others_args and args[STAGES[script][0]]["checkpoint"] == "exact"
    assert ours.keys() == others.keys()
    assert all(ours[key].tobytes() == others[key].tobytes() for key in ours)
    again = [*stage_flags(script, sets, tmp_path / "a"), "--machine", "exact"]
    assert "is finished" in ok(script, *again, run=run_here).stdout


@pytest.mark.parametrize("script", [name for name in STAGES if name != "run_generalization.py"])
def test_a_file_of_before_these_options_is_still_finished(sets, tmp_path, script):
    flags = [*stage_flags(script, sets, tmp_path), "--exact"]
    ok(script, *flags, run=run_here)
    path = tmp_path / "out" / f"{K}.npz"
    arrays = arrays_of(path)
    args, section = json.loads(str(arrays["args"])), STAGES[script][0]
    for name in ("machine", "patch_sides", "most_patches"):
        assert args[section].pop(name) is None
    np.savez(path, **{**arrays, "args": json.dumps(args)})
    before = path.read_bytes()
    for same in (["--exact"], ["--machine", "exact"]):
        done = ok(script, *flags[:-1], *same, run=run_here)
        assert "is finished" in done.stdout and path.read_bytes() == before
    other = run_here(script, *flags[:-1], "--machine", "wiener")
    assert_one_line(other, f"{K}.npz: found a file made with {section}: exact True (now False)")
