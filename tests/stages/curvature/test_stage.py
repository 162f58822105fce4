"""run_curvature.py: its files, and what it refuses."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models.exact import ExactDenoiser
from models.schedule import Schedule
from tests.helpers.runs import DIGITS, assert_one_line, run_here, train_options
from utils.cli.options.sections import CurvatureOptions
from utils.data.datasets import load_image_set, to_float
from utils.data.subsets import permutation
from utils.files.provenance import digest
from utils.inputs.checkpoints import load_checkpoint
from utils.stages.critical_times.files import Times, save_times
from utils.stages.curvature import stage as stage
from utils.stages.curvature.files import SCHEMA, load_curvature
from utils.stages.train import stage as train

QUICK = ["--t", "2,10", "--sample-size", "2", "--batch-size", "64"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny model of K = 8 digits and T = 20."""
    folder = tmp_path_factory.mktemp("made")
    train.run(train_options(folder))
    return folder


@pytest.fixture(scope="module")
def done(made):
    """Its curvature at two training images, and what was printed."""
    result = run_here("run_curvature.py", *flags(made, "c"))
    assert result.returncode == 0, result.stderr
    return result


def flags(made, result, *more):
    paths = ["--ckpt-path", made / "models", "--result-path", made / result]
    return [*paths, *QUICK, *map(str, more)]


def training(k=8):
    images = load_image_set("digits", ".", 8, 1)
    return to_float(images.read(permutation(len(images), 3407)[:k]))


def write_times(made, path, samples, n=3, last=19):
    """times/8.npz of n of these samples: critical times 4, 8, ..., the last one censored."""
    scanned = np.arange(1, last + 1)
    t_c = (4 * np.arange(1, n + 1)).clip(max=last)
    args = load_checkpoint(made / "models" / "8.pt").args
    args["critical_times"] = {"samples": digest(samples[:n])}
    times = Times(
        time=np.repeat(t_c[:, None], 2, 1),
        critical_time=t_c,
        censored=np.arange(n) == n - 1,
        radius=np.ones((n, 2), np.float32),
        trial_radius=np.ones((n, 2), np.float32),
        recovery=np.ones((n, len(scanned)), np.float32),
        non_monotone=np.zeros(n, bool),
        scanned=scanned,
        delta=0.1,
        args=args,
    )
    path.mkdir(exist_ok=True)
    save_times(path / "8.npz", times)
    return path


def test_what_is_written(made, done):
    result = load_curvature(made / "c" / "8.npz")
    assert result.t.tolist() == [2, 10] and result.full and result.dim == 64
    assert result.eigenvalues.shape == (2, 2, 64) and not result.residuals.any()
    own = result.args["curvature"]
    assert (own["spectrum"], own["normal_points"], own["times"]) == ("full", 256, "")
    assert own["samples"] == digest(training()[:2].numpy())
    assert (result.critical_time == -1).all() and not result.censored.any()
    trace = result.eigenvalues.sum(2)
    np.testing.assert_allclose(result.trace, trace, rtol=1e-5, atol=1e-3 * np.abs(trace).max())
    assert (result.normal_bundle >= 0).all() and (result.flat >= 0).all()
    pictures = {p.name for p in (made / "c" / "figures").glob("[!.]*")}
    names = ("spectra", "flat-directions", "dimensions")
    assert pictures == {f"{name}.{end}" for name in names for end in ("png", "pdf")}
    rows = [line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["8"]]
    assert [row[:4] for row in rows] == [["8", "c", "2", "2"], ["8", "c", "2", "10"]]


def test_a_rerun_skips_and_other_options_are_refused(made, done):
    again = run_here("run_curvature.py", *flags(made, "c", "--batch-size", 7))
    assert again.returncode == 0 and "is finished" in again.stdout
    full = run_here("run_curvature.py", *flags(made, "c", "--spectrum", "full"))
    assert "is finished" in full.stdout
    for more, words in (
        (["--t", "2,11"], "curvature: t [2, 10]"),
        (["--seed", 1], "curvature: seed"),
        (["--spectrum", "lanczos"], "curvature: spectrum"),
        (["--sample-size", 3], "curvature: sample-size"),
        (["--normal-points", 0], "curvature: normal-points"),
    ):
        refused = run_here("run_curvature.py", *flags(made, "c", *more))
        assert_one_line(refused, "8.npz", words, "--overwrite")


def test_a_dry_run_writes_nothing(made):
    result = run_here("run_curvature.py", *flags(made, "dry", "--dry-run"))
    assert result.returncode == 0 and "K = 8: write" in result.stdout
    assert not (made / "dry").exists()


def test_the_same_by_seed_whatever_the_batch(made, done):
    """All but rounding; the noise of the normal bundle comes in the same order too."""
    other = flags(made, "b", "--batch-size", 33)
    assert run_here("run_curvature.py", *other).returncode == 0
    a, b = (load_curvature(made / name / "8.npz") for name in ("c", "b"))
    scale = np.abs(a.eigenvalues).max()
    np.testing.assert_allclose(a.eigenvalues, b.eigenvalues, atol=1e-5 * scale)
    np.testing.assert_allclose(a.flipd, b.flipd, rtol=1e-4, atol=1e-3)
    assert (a.normal_bundle == b.normal_bundle).all()


@pytest.mark.slow
def test_both_ends_through_the_stage(made, done):
    """A sample's answer is its own: with another companion, and in another place, it is equal."""
    own = ["--spectrum", "lanczos", "--eigenvalues", 3, "--normal-points", 0, "--t", 10]
    for name, size in (("l1", 1), ("l2", 2)):
        more = flags(made, name, *own, "--sample-size", size)
        assert run_here("run_curvature.py", *more).returncode == 0
    one, two = (load_curvature(made / name / "8.npz") for name in ("l1", "l2"))
    whole = load_curvature(made / "c" / "8.npz")
    assert two.eigenvalues.shape == (2, 1, 6) and not two.full
    scale = np.abs(whole.eigenvalues).max()
    expected = np.concatenate([whole.eigenvalues[:, 1, :3], whole.eigenvalues[:, 1, -3:]], 1)
    np.testing.assert_allclose(two.eigenvalues[:, 0], expected, atol=1e-3 * scale)
    assert (two.residuals <= 1.1e-4 * scale).all() and (two.normal_bundle == -1).all()
    np.testing.assert_allclose(one.trace[0], two.trace[0], rtol=1e-5)
    error = np.abs(two.trace[:, 0] - whole.trace[:, 1])
    assert (error <= 5 * two.trace_error[:, 0] + 1e-4 * scale).all()
    more = flags(made, "l3", *own, "--eigenvalues", 32)  # 2 x 32 are all 64
    assert run_here("run_curvature.py", *more).returncode == 0
    assert load_curvature(made / "l3" / "8.npz").full


@pytest.mark.slow
def test_the_exact_model(tmp_path):
    """In float64 its spectrum is that of its closed form; a process of its own warns of nothing."""
    done = run_here(
        *("run_curvature.py", "--config_path", DIGITS, "--exact", "--train-size", 5),
        *("--t", "0,60", "--result-path", tmp_path, "--sample-size", 3),
    )
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    result, patterns = load_curvature(tmp_path / "5.npz"), training(5).double()
    denoiser = ExactDenoiser(patterns, Schedule())
    for j, t in enumerate((0, 60)):
        x_t = Schedule().alpha_bar[t].sqrt() * patterns[:3]
        values = torch.linalg.eigvalsh(denoiser.hessian(x_t, t)).numpy()
        np.testing.assert_allclose(result.eigenvalues[:, j], values, rtol=1e-8)
        np.testing.assert_allclose(result.scaled(result.trace)[:, j], 64, rtol=1e-3)
    assert (result.asymmetry < 1e-8).all() and (result.flat == 0).all()
    assert (np.abs(result.flipd) < 1e-2).all()


@pytest.mark.slow
def test_critical_times_of_the_same_samples(made):
    samples = training().numpy()
    folder = write_times(made, made / "times", samples)
    ours = flags(made, "t", "--times-path", folder, "--sample-size", 4)
    assert run_here("run_curvature.py", *ours).returncode == 0
    result = load_curvature(made / "t" / "8.npz")
    assert result.critical_time.tolist() == [4, 8, 12, -1]
    assert result.censored.tolist() == [False, False, True, False]
    assert (made / "t" / "figures" / "curvature-critical-times.png").is_file()
    assert "is finished" in run_here("run_curvature.py", *ours).stdout
    # Another folder with the same times is the same; other times, or none, are not.
    same = write_times(made, made / "same", samples)
    moved = flags(made, "t", "--times-path", same, "--sample-size", 4)
    assert "is finished" in run_here("run_curvature.py", *moved).stdout
    other = write_times(made, made / "fewer", samples, n=2)
    moved = flags(made, "t", "--times-path", other, "--sample-size", 4)
    assert_one_line(run_here("run_curvature.py", *moved), "8.npz", "curvature: times")
    none = run_here("run_curvature.py", *flags(made, "t", "--sample-size", 4))
    assert_one_line(none, "8.npz", "curvature: times")


@pytest.mark.parametrize("case", ["samples", "later", "text", "hostile"])
def test_critical_times_of_other_samples(made, tmp_path, case):
    samples = training().numpy()
    named = -samples if case == "samples" else samples
    folder = write_times(made, tmp_path / "t", named, last=99 if case == "later" else 19)
    words = ("--times-path", "8.npz", "other samples")
    if case == "text":
        (folder / "8.npz").write_text("hello")
        words = ("8.npz", "no readable .npz")
    elif case == "hostile":
        arrays = dict(np.load(folder / "8.npz"))
        args = {**json.loads(str(arrays["args"])), "critical_times": {"samples": [1]}}
        np.savez(folder / "8.npz", **{**arrays, "args": json.dumps(args)})
    done = run_here("run_curvature.py", *flags(made, "none", "--times-path", folder))
    assert_one_line(done, *words)
    assert not (made / "none").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--t", "5,20"], ("--t", "20", "choose 0 to 19")),
        (["--t", "5,5"], ("--t", "each once")),
        (["--t", "-1"], ("--t", "-1")),
        (["--normal-points", 63], ("--normal-points", "63", "64 or more")),
        (["--times-path", "none"], ("--times-path none", "no such folder")),
        (["--spectrum", "half"], ("--spectrum", "half")),
        (["--probes", 1], ("--probes", "1")),
        (["--tolerance", 0], ("--tolerance", "0")),
        (["--eigenvalues", 0], ("--eigenvalues", "0")),
        (["--sample-size", 0], ("--sample-size", "0")),
    ],
)
def test_mistakes(made, more, words):
    done = run_here("run_curvature.py", *flags(made, "none", *more))
    assert_one_line(done, *words)
    assert not (made / "none").exists()


def test_weights_that_are_not_numbers(made, tmp_path):
    state = torch.load(made / "models" / "8.pt", weights_only=True)
    state["ema"] = {name: torch.full_like(v, torch.nan) for name, v in state["ema"].items()}
    (tmp_path / "models").mkdir()
    torch.save(state, tmp_path / "models" / "8.pt")
    own = ["--ckpt-path", tmp_path / "models", "--result-path", tmp_path / "c", *QUICK]
    assert_one_line(run_here("run_curvature.py", *own), "8")
    assert not list((tmp_path).glob("c/*.npz"))


def test_a_model_whose_numbers_are_of_no_use(made, tmp_path, monkeypatch):
    """Finite weights, but a Jacobian that is not."""
    from models.denoiser import NetworkDenoiser

    monkeypatch.setattr(NetworkDenoiser, "eps", lambda self, x, t: x * torch.inf)
    done = run_here("run_curvature.py", *flags(made, "none"))
    assert_one_line(done, "model of K = 8", "NaN or infinite", "earlier checkpoint")


def spoilt(arrays, case):
    if case == "missing":
        del arrays["flat"]
    elif case == "float32 flat":
        arrays["flat"] = arrays["flat"].astype(np.float32)
    elif case == "shape":
        arrays["trace"] = arrays["trace"][:1]
    elif case == "nan":
        arrays["flipd"][0, 0] = np.nan
    elif case == "ascend":
        arrays["eigenvalues"] = arrays["eigenvalues"][:, :, ::-1]
    elif case == "asymmetry":
        arrays["asymmetry"] += 2
    elif case == "flat":
        arrays["flat"] += 100
    elif case == "times":
        arrays["t"] = arrays["t"] + 18
    elif case == "residuals":
        arrays["residuals"] -= 1
    elif case == "empty":
        arrays = {k: v[:0] if k not in ("t", "args") else v for k, v in arrays.items()}
    elif case == "odd":
        arrays |= {k: arrays[k][:, :, :3] for k in ("eigenvalues", "residuals")}
    elif case == "args":
        arrays["args"] = np.array("{")
    return arrays


CASES = {
    "missing": "flat",
    "float32 flat": "flat float32",
    "shape": "trace",
    "nan": "flipd with NaN",
    "ascend": "do not ascend",
    "asymmetry": "asymmetry outside",
    "flat": "flat outside",
    "times": "t outside 0 to 19",
    "residuals": "residuals outside",
    "empty": "[0",
    "odd": "3 eigenvalues of 64",
    "args": "no JSON",
}


@pytest.mark.parametrize("case", CASES)
def test_bad_files(made, done, tmp_path, case):
    from utils.cli.errors import UserError

    path = tmp_path / "8.npz"
    np.savez(path, **spoilt(dict(np.load(made / "c" / "8.npz")), case))
    with pytest.raises(UserError) as raised:
        load_curvature(path)
    assert "8.npz" in str(raised.value) and CASES[case] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_keys_are_those_of_the_page(made, done):
    with np.load(made / "c" / "8.npz") as arrays:
        assert set(arrays) == {*SCHEMA, "args"}
        kinds = {"i": np.int64, "f": np.float64, "b": bool}
        assert all(arrays[key].dtype == kinds[array.kind] for key, array in SCHEMA.items())


def test_the_noises_around_a_sample_are_all_different_and_the_same_for_any_batch():
    def rows(batch):
        plan = SimpleNamespace(settings=CurvatureOptions(batch_size=batch), normal_points=20)
        return torch.cat(list(stage.noises((1, 2, 3), "key", 5, plan)))

    assert rows(7).equal(rows(64)) and len(rows(7)) == 20
    assert len({tuple(row.flatten().tolist()) for row in rows(7)}) == 20
