"""Numbers at their limits: sound answers, or one line and nothing written."""

import numpy as np
import pytest
import torch

from tests.helpers.runs import DIGITS, SMALL, assert_one_line, run_script, train_options
from tests.helpers.sandbox import run_stage, without_pictures
from utils.cli.errors import UserError
from utils.data.datasets import to_float
from utils.data.subsets import training_subset
from utils.descriptors.embedders import load_metric
from utils.inputs.samples import save_synthetics
from utils.metrics.nearest import nearest_images
from utils.stages.classify.files import load_identified
from utils.stages.critical_times.files import load_times
from utils.stages.distances.files import load_dists
from utils.stages.energy.files import load_energies
from utils.stages.train import stage as train

pytestmark = pytest.mark.usefixtures("no_pictures")
LPIPS = ("--use-lpips", "--network", "alex")


def args_of(folder, k):
    return train.training_args(train_options(folder, "--train-size", k))


def real_images(folder, k):
    return to_float(training_subset(args_of(folder, k)).images).numpy()


def chain(folder, samples, k, metric=(), *criterion):
    """Distances, classes, critical times and energies (exact model) of samples, in files."""
    save_synthetics(folder / "s" / f"{k}.npz", np.asarray(samples, np.float32), args_of(folder, k))
    paths = ["--synth-path", folder / "s", "--result-path", folder / "d"]
    run_stage("distances", *paths, *metric)
    paths = ["--dist-path", folder / "d", "--eval-path", folder / "s"]
    run_stage("classify", *paths, "--result-path", folder / "i", *criterion)
    flags = ["--exact", "--sample-path", folder / "s", "--sample-size", 2]
    few = ["--stride", 10, "--p-trials", 2, "--ddim-steps", 2, "--batch-size", 8]
    run_stage("critical times", *flags, *few, "--result-path", folder / "t", *metric)
    np.savez(folder / "ref.npz", samples=np.asarray(samples[:1], np.float32))
    flags += ["--ref-path", folder / "ref.npz", "--path-points", 4, "--result-path", folder / "e"]
    run_stage("energy", *flags)
    loaders = (("d", load_dists), ("t", load_times), ("e", load_energies))
    return [load(folder / name / f"{k}.npz") for name, load in loaders]


@pytest.mark.parametrize("metric", [(), LPIPS], ids=["l2", "alex"])
def test_samples_that_are_all_the_same(tmp_path, tally, metric):
    """Every distance 0, neighbours by index, none is its own; 0 / 0 is memorized, not NaN."""
    sample = real_images(tmp_path, 8)[2]
    with tally.attempt("distances", "numbers", "identical samples"):
        criterion = ["--criterion", "delta" if metric else "ratio"]
        result, times, energies = chain(tmp_path, [sample] * 6, 8, metric, *criterion)
        dists, indices = result.arrays["synth-dists"], result.arrays["synth-indices"]
        assert (dists == 0).all()
        expected = [[j for j in range(6) if j != i] for i in range(6)]
        assert indices.tolist() == expected
        assert (result.arrays["data-dists"][:, 0] == 0).all()
        assert (result.arrays["data-indices"][:, 0] == 2).all()
        assert len(load_identified(tmp_path / "i" / "memorized" / "8.npz").samples) == 6
        assert times.critical_time[0] == times.critical_time[1]
        assert (energies.potential == 0).all()


@pytest.mark.parametrize("metric", [(), LPIPS], ids=["l2", "alex"])
def test_one_training_image_and_one_sample(tmp_path, tally, metric):
    """No second neighbour of either kind; whatever is drawn comes back to the one image."""
    image = real_images(tmp_path, 1)
    with tally.attempt("classify", "numbers", "K = 1, N = 1"):
        result, times, energies = chain(tmp_path, image * 0.9, 1, metric, "--delta-m", 9)
        assert result.arrays["data-dists"].shape == (1, 1)
        assert result.arrays["synth-dists"].shape == (1, 0)
        assert len(load_identified(tmp_path / "i" / "memorized" / "1.npz").samples) == 1
        assert np.isfinite(times.radius).all() and (energies.potential == 0).all()
        paths = ["--dist-path", tmp_path / "d", "--eval-path", tmp_path / "s", "--result-path"]
        for criterion, words in (("calibrated", "judge 2 samples"), ("ratio", "another")):
            flags = [*paths, tmp_path / criterion, "--criterion", criterion]
            with pytest.raises(UserError, match=words):
                run_stage("classify", *flags)
            assert not (tmp_path / criterion).exists()


def test_one_training_image_calibrated_and_spread_over_the_ends(tmp_path, tally):
    """K = 1 with samples at exactly -1 and 1, and constant ones."""
    signs = np.where(real_images(tmp_path, 8)[:3] > 0, 1.0, -1.0)
    samples = np.concatenate([signs, np.ones((1, 1, 8, 8)), -np.ones((1, 1, 8, 8))])
    with tally.attempt("critical times", "numbers", "samples at -1 and 1"):
        result, times, energies = chain(tmp_path, samples, 1, (), "--criterion", "calibrated")
        assert result.arrays["data-dists"].shape == (5, 1)
        assert np.isfinite(energies.potential).all() and len(times.critical_time) == 2
        rows = (tmp_path / "i" / "summary.csv").read_text().splitlines()
        assert rows[1].startswith("1,5,") and "nan" not in rows[1]


def test_one_sample_of_one_image_is_that_image(tmp_path, tally):
    with tally.attempt("generate", "numbers", "K = 1, N = 1"):
        flags = ["--config_path", DIGITS, "--exact", "--train-size", 1, "--num-samples", 1]
        flags += ["--result-path", tmp_path / "g", "--synth-path", tmp_path / "s", "--steps", 3]
        run_stage("generate", *flags)
        result = np.load(tmp_path / "s" / "1.npz")["samples"]
        np.testing.assert_allclose(result, real_images(tmp_path, 1), atol=1e-6)


def test_one_pattern_on_the_circle(tmp_path, tally, monkeypatch):
    monkeypatch.setattr("utils.stages.toy.stage.show_exact", lambda *_: None)
    with tally.attempt("toy", "numbers", "K = 1"):
        flags = ["--results-path", tmp_path, "--sample-size", 1, "--beta", 10]
        run_stage("toy exact", *flags)
        result = np.load(tmp_path / "1" / "exact-beta10.npz")
        axis, energy_of = result["axis"], result["energy"]
        y, x = np.unravel_index(energy_of.argmin(), energy_of.shape)
        assert np.isfinite(energy_of).all()
        assert np.hypot(*(result["patterns"][0] - (axis[x], axis[y]))) < axis[1] - axis[0]


@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")
@pytest.mark.parametrize("side", [8, 64])
def test_images_of_one_colour_equal_the_package_lpips(side, tally, recwarn):
    """A layer may see nothing at all there, and divides 0 by its norm + 1e-10."""
    import lpips

    levels = torch.tensor([-1.0, -0.03, 0.0, 0.5, 1.0])
    flat = levels.view(-1, 1, 1, 1).expand(-1, 3, side, side).contiguous()
    alex = load_metric("alex", None, "cpu")
    package = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    weights = {name.removeprefix("features."): w for name, w in alex.phi.state_dict().items()}
    layers = {
        part: layer
        for name, block in package.net.named_children()
        for part, layer in block.named_children()
    }
    with torch.no_grad():
        for part, layer in layers.items():
            for name, value in layer.named_parameters():
                value.copy_(weights[f"{part}.{name}"])
    prepared = flat if side >= 32 else flat.repeat_interleave(4, 2).repeat_interleave(4, 3)
    with tally.attempt("distances", "numbers", f"one colour, {side}"):
        phi = alex(flat)
        assert phi.isfinite().all()
        for i, j in np.ndindex(5, 5):
            expected = package(prepared[i : i + 1], prepared[j : j + 1]).item()
            result = (phi[i] - phi[j]).square().sum().item()
            assert result == pytest.approx(expected, rel=1e-4, abs=1e-7)
            assert result == 0 or i != j
        result = nearest_images(alex, flat, flat, 1)
        assert (result["data-dists"] == 0).all() and result["data-indices"][:, 0].tolist() == [
            *range(5)
        ]


@pytest.mark.parametrize("factor", [1e30, torch.inf, torch.nan])
def test_features_that_overflow_are_one_line_and_never_cached(tmp_path, tally, monkeypatch, factor):
    """As weights of another precision than LPIPS was made for would give them."""
    real = load_metric("alex", None, "cpu")
    real.phi.features[0].weight.mul_(factor).mul_(1e9)
    monkeypatch.setattr("utils.descriptors.embedders.load_metric", lambda *_: real)
    save_synthetics(tmp_path / "s" / "8.npz", real_images(tmp_path, 8), args_of(tmp_path, 8))
    flags = ["--synth-path", tmp_path / "s", "--result-path", tmp_path / "d", *LPIPS]
    with tally.attempt("distances", "numbers", f"features times {factor}"):
        with pytest.raises(UserError, match="--metric alex: found NaN or infinite features"):
            run_stage("distances", *flags)
        assert not list(tmp_path.rglob("*.npy")) and not list((tmp_path / "d").rglob("*.npz"))


@pytest.fixture(scope="module")
def unsound(tmp_path_factory):
    """A model whose weights are finite and whose output is not."""
    folder = tmp_path_factory.mktemp("unsound")
    with without_pictures():
        train.run(train_options(folder, "--iterations", 2))
    path = folder / "models" / "8.pt"
    content = torch.load(path, weights_only=True)
    content["ema"] = {
        name: w.sign() * 1e30 if w.ndim == 4 else w for name, w in content["ema"].items()
    }
    torch.save(content, path)
    np.savez(folder / "ref.npz", samples=real_images(folder, 8)[:1])
    return folder


def outputs(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("infinite", [False, True])
@pytest.mark.parametrize("stage", ["ddim", "ddpm", "dpmpp", "critical times", "energy"])
def test_a_model_that_is_not_finite_is_named(
    unsound, tmp_path, tally, monkeypatch, stage, infinite
):
    """Infinities too: the clip to [-1, 1] would hide them in images of nothing but borders."""
    calls = []

    def output(self, x, t):
        calls.append(t)
        return torch.full_like(x, torch.inf)

    if infinite:
        monkeypatch.setattr("models.denoiser.NetworkDenoiser.output", output)
    flags = ["--ckpt-path", unsound / "models", "--result-path", tmp_path / "out"]
    more = {
        "critical times": ("--p-trials", 1),
        "energy": ("--ref-path", unsound / "ref.npz"),
    }
    name, options = stage, more.get(stage)
    if options is None:
        name, options = "generate", ("--num-samples", 2, "--sampler", stage, "--steps", 3)
        flags[1] = unsound / "models" / "8.pt"
    with tally.attempt(name, "numbers", "a model of NaN or inf"):
        with pytest.raises(UserError, match="model of K = 8: found .*; use an earlier checkpoint"):
            run_stage(name, *flags, *options)
        assert bool(calls) == infinite
        assert not outputs(tmp_path / "out")


def test_energies_beyond_float32_are_refused_before_they_are_written(
    unsound, tmp_path, tally, monkeypatch
):
    monkeypatch.setattr(
        "utils.stages.energy.stage.path_integrals", lambda *_: (np.full((1, 8), 1e39), None)
    )
    flags = ["--ckpt-path", unsound / "models", "--result-path", tmp_path / "out"]
    with tally.attempt("energy", "numbers", "1e39"):
        with pytest.raises(UserError, match="model of K = 8: found energies beyond"):
            run_stage("energy", *flags, "--ref-path", unsound / "ref.npz")
        assert not outputs(tmp_path / "out")


@pytest.mark.parametrize("lr", ["1e4", "1e39"])
def test_a_training_that_diverges_keeps_what_was_good_and_says_how_to_go_on(tmp_path, tally, lr):
    flags = ["--log-every", 1, "--ckpt-every", 1, "--iterations", 3, "--lr"]
    folder = tmp_path / "run" / "checkpoints"
    with tally.attempt("train", "numbers", f"--lr {lr}"):
        with pytest.raises(UserError, match="smaller --lr") as raised:
            train.run(train_options(tmp_path, *flags, lr))
        for path in folder.glob("*.pt"):  # of 1e39 there is none: its first step spoils all
            assert f"{path} is the last good checkpoint" in str(raised.value)
            content = torch.load(path, weights_only=True)
            assert all(w.isfinite().all() for w in content["model"].values())
        assert not list((tmp_path / "models").glob("*.pt"))
        assert folder.exists() == (lr == "1e4")
        if lr == "1e4":
            with pytest.raises(UserError, match="lr 10000.0 .*--overwrite, or choose another"):
                train.run(train_options(tmp_path, *flags, "1e-3"))
        train.run(train_options(tmp_path, *flags, "1e-3", "--overwrite"))
        train.run(train_options(tmp_path / "afresh", *flags, "1e-3"))
        result, expected = (
            torch.load(f / "models" / "8.pt", weights_only=True)["ema"]
            for f in (tmp_path, tmp_path / "afresh")
        )
        assert all(torch.equal(result[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_diverging_training_is_one_line_from_the_shell(tmp_path, tally):
    with tally.attempt("train", "numbers", "--lr 1e6 from the shell"):
        flags = ["--config_path", DIGITS, *SMALL, "--results-path", tmp_path / "run", "--lr", 1e6]
        flags += ["--iterations", 4, "--log-every", 1, "--ckpt-every", 4, "--train-size", 8]
        done = run_script("train_unet.py", *flags)
        assert_one_line(done, "at step", "nan", "--lr")


def test_the_pipeline_refuses_the_ratio_of_one_training_image_at_once(tmp_path, tally):
    flags = ["--config_path", DIGITS, "--sizes", "1,8", "--criterion", "ratio", "--metric", "l2"]
    with tally.attempt("pipeline", "numbers", "K = 1"):
        with pytest.raises(UserError, match="K = 1, which has no second training image"):
            run_stage("pipeline", *flags, "--root", tmp_path / "p")
        assert not (tmp_path / "p").exists()
