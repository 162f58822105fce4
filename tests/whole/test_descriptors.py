"""A descriptor in every stage: one name, one cache, one set of weights."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import torch

from tests.helpers.images import digits_args, real_digits
from tests.helpers.runs import assert_one_line, ok, run_here
from utils.descriptors.embedders import load_metric
from utils.files.arrays import read_npz
from utils.inputs.samples import save_synthetics
from utils.stages.distances.files import load_dists

K = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of 48 random features of the pixels, and samples: copies, noise and new digits."""
    folder, seed = tmp_path_factory.mktemp("descriptors"), torch.Generator().manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 48), torch.nn.Tanh())
    torch.nn.init.normal_(network[1].weight, std=0.05, generator=seed)
    for name in ("one.pt", "two.pt"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(network, torch.zeros(1, 3, 8, 8)), folder / name)
        network[1].bias.data += 1
    digits, args = real_digits(1797), digits_args(K)
    from utils.data.datasets import to_float
    from utils.data.subsets import training_subset

    train = to_float(training_subset(args).images)
    noised = (train[:8] + 0.02 * torch.randn(8, 1, 8, 8, generator=seed)).clamp(-1, 1)
    samples = torch.cat([train[:12], noised, digits[-20:]]).numpy()
    save_synthetics(folder / "s" / f"{K}.npz", samples, args)
    return folder


def distances(folder, result, *flags):
    return run_here(
        *("run_distances.py", "--synth-path", folder / "s", "--result-path", folder / result),
        *("--device", "cpu", *flags),
    )


def classify(folder, dists, result, *flags):
    return run_here(
        *("run_classify.py", "--dist-path", folder / dists, "--eval-path", folder / "s"),
        *("--result-path", folder / result, "--device", "cpu", *flags),
    )


def test_the_stages_share_embeddings_and_refuse_other_weights(folder):
    metric = f"torchscript:{folder / 'one.pt'}"
    assert distances(folder, "d", "--metric", metric).returncode == 0
    stored = load_dists(folder / "d" / f"{K}.npz")
    assert (stored.metric, stored.metric_name) == ("descriptor", "torchscript:one.pt")
    embedder = load_metric("torchscript:one.pt", folder / "one.pt", "cpu")
    samples = torch.from_numpy(read_npz(folder / "s" / f"{K}.npz", ("samples",))["samples"])
    phi = embedder(samples)
    np.testing.assert_allclose(phi.norm(dim=1).numpy(), 1, atol=1e-6)
    between = torch.cdist(phi, phi).fill_diagonal_(math.inf).min(dim=1).values
    np.testing.assert_allclose(stored.arrays["synth-dists"][:, 0], between, atol=2e-3)
    # finished; the same by another flag is the same
    assert "finished" in distances(folder, "d", "--metric", metric).stdout
    other = f"torchscript:{folder / 'two.pt'}"
    assert_one_line(distances(folder, "d", "--metric", other), "distances: network", "two.pt")
    (folder / "moved").mkdir()
    (folder / "two.pt").rename(folder / "moved" / "one.pt")  # the same name, other weights
    changed = f"torchscript:{folder / 'moved' / 'one.pt'}"
    assert_one_line(distances(folder, "d", "--metric", changed), "distances: weights")
    asked = "--criterion", "calibrated", "--metric-weights"
    assert_one_line(classify(folder, "d", "c"), "--metric-weights", "nothing")
    weights = folder / "moved" / "one.pt"
    assert_one_line(classify(folder, "d", "c", *asked, weights), "other weights")
    done = classify(folder, "d", "c", *asked, folder / "one.pt")
    assert done.returncode == 0, done.stderr
    row = json.loads((folder / "c" / "summary" / f"{K}.json").read_text())["row"]
    assert row["metric"] == "torchscript:one.pt" and row["memorized"] >= 20
    filled = {path.parent for path in (folder / "embeddings").glob("torchscript-one.pt-*/*.npy")}
    assert len(filled) == 1


def test_metric_and_use_lpips_name_the_same(folder):
    assert distances(folder, "alex", "--use-lpips", "--network", "alex").returncode == 0
    assert "finished" in distances(folder, "alex", "--metric", "alex").stdout
    assert_one_line(distances(folder, "alex", "--metric", "vgg", "--use-lpips"), "--metric", "vgg")
    assert_one_line(distances(folder, "alex", "--metric", "resnet"), "--metric", "timm:NAME")


def test_published_cutoffs_of_sscd(folder):
    """Any network may stand in for SSCD: it is resized to 288 pixels, so this one takes any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(6), torch.nn.Flatten())
        torch.jit.save(torch.jit.trace(pooled, torch.zeros(1, 3, 9, 9)), folder / "sscd.pt")
    weights = "--metric-weights", folder / "sscd.pt"
    assert distances(folder, "sscd", "--metric", "sscd", *weights).returncode == 0
    done = classify(folder, "sscd", "published", "--cutoff", "sscd-0.7", *weights)
    assert done.returncode == 0, done.stderr
    row = json.loads((folder / "published" / "summary" / f"{K}.json").read_text())["row"]
    nearest = load_dists(folder / "sscd" / f"{K}.npz").arrays["data-dists"][:, 0]
    for cosine in (0.5, 0.6, 0.7):
        share = float(np.mean(1 - nearest.astype(np.float64) ** 2 / 2 >= cosine))
        assert row[f"sscd-{cosine}"] == pytest.approx(share)
        assert 0 <= row[f"sscd-{cosine}_control"] <= 1
    assert row["delta_m"] == pytest.approx(math.sqrt(0.6))
    assert row["memorized_share"] == row["sscd-0.7"] < row["sscd-0.5_control"] + 1
    wrong = classify(folder, "alex", "x", "--cutoff", "sscd-0.7")
    assert_one_line(wrong, "--cutoff", "distances by alex")
    both = classify(folder, "sscd", "x", "--cutoff", "sscd-0.7", "--criterion", "ratio")
    assert_one_line(both, "--cutoff", "ratio")
    real = (real_digits(400).numpy() + 1) / 2
    np.save(folder / "train.npy", real[:200])
    np.save(folder / "new.npy", real[200:])
    audit = ok(
        *("run_audit.py", "--samples", folder / "s" / f"{K}.npz", "--train", folder / "train.npy"),
        *("--held-out", folder / "new.npy", "--result-path", folder / "audit", "--device", "cpu"),
        *("--metric", "sscd", *weights),
        run=run_here,
    )
    found = json.loads((folder / "audit" / "audit.json").read_text())
    assert "cut-offs:" in audit.stdout and found["cutoffs"]["sscd-0.5_control"] is not None


@pytest.mark.parametrize("script", ["run_critical_times.py", "run_generalization.py"])
def test_other_stages_take_the_name(folder, script):
    own = {
        "run_critical_times.py": ["--sample-size", 2, "--stride", 300, "--p-trials", 2],
        "run_generalization.py": ["--synth-path", folder / "s", "--t", 20, "--probe-size", 4],
    }
    data = ["--data-name", "digits", "--train-size", K] if "times" in script else []
    metric = "--metric", f"torchscript:{folder / 'one.pt'}"
    samples = ["--sample-path", folder / "s"] if "times" in script else []
    done = run_here(
        *(script, "--exact", *data, *samples, *own[script], *metric, "--device", "cpu"),
        *("--result-path", folder / script),
    )
    assert done.returncode == 0, done.stderr
    section = script.removeprefix("run_").removesuffix(".py")
    file = folder / script / (f"{K}.npz" if "times" in script else f"{K}.json")
    if file.suffix == ".npz":
        args = json.loads(str(read_npz(file, ("args",))["args"]))
        assert (args[section]["metric"], args[section]["network"]) == (
            "descriptor",
            "torchscript:one.pt",
        )
    else:
        args = json.loads(file.read_text())["args"]
        assert args[section]["metric"] == "torchscript:one.pt"
    assert len(args[section]["weights"]) == 16
