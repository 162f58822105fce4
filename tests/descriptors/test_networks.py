"""Descriptors: features against the networks' own forward, preprocessing, weights and errors."""

from __future__ import annotations

import builtins
import pickle
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.transforms.v2 import functional as V

from utils.cli.errors import UserError
from utils.cli.options.run import CacheOptions
from utils.descriptors import networks, weights
from utils.descriptors.embedders import load_metric
from utils.metrics.cache import open_cache

COUNTS = (1, 5, 16, 33)  # of images: below, at and above the batch of a call
NEAR = {"rtol": 1e-5, "atol": 1e-5}
FILES = ("torchscript:small.pt", *(f"onnx:{n}.onnx" for n in ("small", "fixed", "last", "bytes")))


class CodeOnLoad:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


class Small(torch.nn.Module):
    """A network of 24 features for colour images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, stride=2, padding=1), torch.nn.ReLU()
        )
        self.last = torch.nn.Linear(16, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layers(x).mean((2, 3)))


def images(count: int, side: int = 20, channels: int = 3) -> torch.Tensor:
    """uint8 [count, channels, side, side]."""
    generator = torch.Generator().manual_seed(side)
    return torch.randint(0, 256, (count, channels, side, side), generator=generator).byte()


def prepared(x: torch.Tensor, size: int | None, mean, std, mode: str = "BILINEAR") -> torch.Tensor:
    """The input of a network by torchvision's transforms."""
    x = V.to_dtype(x, torch.float32, scale=True).expand(-1, 3, -1, -1)
    if size is not None:
        mode = getattr(V.InterpolationMode, mode)
        x = V.resize(x, [size, size], interpolation=mode, antialias=True)
    return V.normalize(x, list(mean), list(std))


def unit(x: torch.Tensor) -> torch.Tensor:
    return F.normalize(x, dim=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Path, Small]:
    """small.pt (TorchScript), small.onnx (any batch), fixed.onnx (32 images of 20 x 20); last.onnx
    (channels last, sizes without names) and bytes.onnx (8 bits too, with its own mean and std)."""
    folder, network = tmp_path_factory.mktemp("small"), Small().eval()
    x = torch.zeros(32, 3, 20, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, x[:2]), folder / "small.pt")
        for name, axes in (("small", {"x": {0: "n", 2: "h", 3: "w"}}), ("fixed", None)):
            options = {"input_names": ["x"], "dynamic_axes": axes, "dynamo": False}
            torch.onnx.export(network, (x,), folder / f"{name}.onnx", **options)
    model = onnx.load(folder / "small.onnx")
    onnx.save(channels_last(model), folder / "last.onnx")
    onnx.save(channels_last(model, LEVELS_OF), folder / "bytes.onnx")
    return folder, network


LEVELS_OF = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}  # 255 x ImageNet's


def channels_last(model: onnx.ModelProto, own: dict[str, tuple] | None = None) -> onnx.ModelProto:
    """A copy of a network of x [n, 3, h, w] for images [n, h, w, 3]: uint8 where it has its own
    mean and std, of levels, as exports for use with camera images have."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    kind = TensorProto.UINT8 if own else TensorProto.FLOAT
    shape = [None, None, None, 3]
    changed.graph.input[0].CopyFrom(helper.make_tensor_value_info("images", kind, shape))
    nodes, last = [], "images"
    if own:
        nodes.append(helper.make_node("Cast", [last], ["float"], to=TensorProto.FLOAT))
        for name, values in own.items():
            constant = numpy_helper.from_array(np.float32(values), name)
            changed.graph.initializer.append(constant)
        nodes.append(helper.make_node("Sub", ["float", "mean"], ["centred"]))
        nodes.append(helper.make_node("Div", ["centred", "std"], ["scaled"]))
        last = "scaled"
    nodes.append(helper.make_node("Transpose", [last], ["x"], perm=[0, 3, 1, 2]))
    rest = list(changed.graph.node)
    del changed.graph.node[:]
    changed.graph.node.extend([*nodes, *rest])
    return changed


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("metric", FILES)
def test_features_of_a_file(small, metric, count):
    folder, network = small
    embedder = load_metric(metric, folder / metric.partition(":")[2], "cpu")
    x = images(count)
    own = prepared(x, None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        torch.testing.assert_close(embedder(x), unit(network(own)), **NEAR)
    if metric == "onnx:small.onnx":
        session = onnxruntime.InferenceSession(str(folder / "small.onnx"))
        theirs = torch.from_numpy(session.run(None, {"x": own.numpy()})[0])
        torch.testing.assert_close(embedder(x), unit(theirs), **NEAR)
    assert torch.equal(embedder(x)[:1], embedder(x[:1]))  # whatever the batch


def test_the_card_beside_a_file(small, tmp_path):
    folder, network = small
    file = tmp_path / "small.pt"
    file.write_bytes((folder / "small.pt").read_bytes())
    plain = load_metric("torchscript:small.pt", file, "cpu")
    file.with_suffix(".yaml").write_text(
        "size: 12\ninterpolation: bicubic\nmean: [0.5, 0.5, 0.5]\nstd: [0.25, 0.5, 1]\n"
    )
    carded = load_metric("torchscript:small.pt", file, "cpu")
    x = images(3)
    own = prepared(x, 12, (0.5, 0.5, 0.5), (0.25, 0.5, 1), "BICUBIC")
    with torch.no_grad():
        torch.testing.assert_close(carded(x), unit(network(own)), **NEAR)
    # Another preprocessing never takes embeddings from the cache of this one.
    caches = [open_cache(e, CacheOptions(), tmp_path / "d", x, 3) for e in (plain, carded)]
    assert caches[0].folder != caches[1].folder
    for card in ("size: 13\n", "std: [0.25, 0.5, 1.00001]\n", "interpolation: nearest\n"):
        file.with_suffix(".yaml").write_text(card)
        other = load_metric("torchscript:small.pt", file, "cpu")
        assert other.fingerprint not in (plain.fingerprint, carded.fingerprint)


@pytest.mark.parametrize(
    "card",
    ["size: 0", "size: big", "side: 3", "mean: [1, 2]", "std: [0, 1, 1]", "[1]", "a: [", "mean: 1"],
)
def test_a_wrong_card(small, tmp_path, card):
    file = tmp_path / "small.pt"
    file.write_bytes((small[0] / "small.pt").read_bytes())
    file.with_suffix(".yaml").write_text(card)
    with pytest.raises(UserError, match="small.yaml") as error:
        load_metric("torchscript:small.pt", file, "cpu")
    assert "\n" not in str(error.value)


def test_a_card_with_another_size_than_the_network(small, tmp_path):
    file = tmp_path / "fixed.onnx"
    file.write_bytes((small[0] / "fixed.onnx").read_bytes())
    file.with_suffix(".yaml").write_text("size: 32")
    with pytest.raises(UserError, match="write size: 20"):
        load_metric("onnx:fixed.onnx", file, "cpu")


def test_a_card_without_a_size_keeps_that_of_the_network(small, tmp_path):
    file = tmp_path / "fixed.onnx"
    file.write_bytes((small[0] / "fixed.onnx").read_bytes())
    file.with_suffix(".yaml").write_text("interpolation: bicubic")
    x = images(2, 33)
    own = prepared(x, 20, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "BICUBIC")
    with torch.no_grad():
        expected = unit(small[1](own))
    torch.testing.assert_close(load_metric("onnx:fixed.onnx", file, "cpu")(x), expected, **NEAR)


@pytest.mark.parametrize("metric", ["onnx:bytes.onnx", "sscd"])
def test_a_network_of_8_bits_has_its_own_mean_and_std(small, tmp_path, metric, capsys):
    """Resized, rounded to levels, and not normalised a second time."""
    file = tmp_path / "bytes.onnx"
    file.write_bytes((small[0] / "bytes.onnx").read_bytes())
    size = 288 if metric == "sscd" else 40
    if metric != "sscd":
        file.with_suffix(".yaml").write_text("size: 40")
    x = images(2, 30)
    levels = V.resize(x.float(), [size, size], antialias=True).round() / 255
    own = V.normalize(levels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = unit(small[1](own))
    phi = load_metric(metric, file, "cpu")(x)
    torch.testing.assert_close(phi, expected, rtol=0, atol=1e-3)  # halves of levels round both ways
    assert f"{size} x {size} (bilinear), 0 to 255" in capsys.readouterr().out
    file.with_suffix(".yaml").write_text("mean: [0.5, 0.5, 0.5]")
    with pytest.raises(UserError, match="bytes.yaml: found mean or std.*leave them out"):
        load_metric(metric, file, "cpu")


def test_sscd_is_resized_to_288_pixels(small, tmp_path):
    file = tmp_path / "sscd_disc_mixup.torchscript.pt"
    file.write_bytes((small[0] / "small.pt").read_bytes())
    x = images(2, 30, channels=1)
    own = prepared(x, 288, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        expected = unit(small[1](own))
    for given in (file, tmp_path):  # the file, or its folder
        torch.testing.assert_close(load_metric("sscd", given, "cpu")(x), expected, **NEAR)


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_resnet.r160_in1k"])
def test_features_of_timm(tmp_path, name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    embedder = load_metric(f"timm:{name}", tmp_path, "cpu")
    own = timm.data.resolve_model_data_config(model)
    for count in COUNTS[:3]:
        x = images(count, 40)
        mode = own["interpolation"].upper()
        given = prepared(x, own["input_size"][-1], own["mean"], own["std"], mode)
        with torch.no_grad():
            torch.testing.assert_close(embedder(x), unit(model(given)), **NEAR)


def test_dinov2_is_not_normalised_and_clip_keeps_its_projection(tmp_path, monkeypatch):
    """Small models of timm in their places."""
    names = {"dinov2": ("test_vit.r160_in1k", 64, False), "clip": ("test_vit2", None, True)}
    monkeypatch.setattr(networks, "OF_TIMM", names)
    x = images(2, 40)
    for metric, (name, size, whole) in names.items():
        torch.manual_seed(1)
        options = {"img_size": size} if size else {}
        model = timm.create_model(name, **options, **({} if whole else {"num_classes": 0})).eval()
        file = tmp_path / f"{metric}.safetensors"
        save_file(model.state_dict(), file)
        own = timm.data.resolve_model_data_config(model)
        mode = own["interpolation"].upper()
        given = prepared(x, size or own["input_size"][-1], own["mean"], own["std"], mode)
        with torch.no_grad():
            expected = model(given)
        phi = load_metric(metric, file, "cpu")(x)
        torch.testing.assert_close(phi, unit(expected) if whole else expected, rtol=1e-4, atol=1e-5)
        assert phi.shape[1] == (1000 if whole else 64)


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """The FID network of torch-fidelity with random weights, and their file."""
    folder = tmp_path_factory.mktemp("inception")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        torch.save({}, folder / "empty.pth")
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("random", ["2048"], str(folder / "empty.pth"))
    path = folder / networks.INCEPTION_FILE
    torch.save(network.state_dict(), path)
    return network, path


def test_features_of_inception(inception):
    network, path = inception
    embedder, x = load_metric("inception", path.parent, "cpu"), images(3, 32)
    expected = network(x)[0]
    assert expected.shape == (3, 2048)
    torch.testing.assert_close(embedder(x), expected, **NEAR)
    torch.testing.assert_close(embedder(x.float() / 127.5 - 1), expected, **NEAR)
    levels = torch.arange(256).byte().view(1, 1, 16, 16)
    back = networks.as_bytes(levels.float() / 127.5 - 1)
    assert torch.equal(back, levels.expand(-1, 3, -1, -1))  # of random weights, features hide this
    grey = images(2, 32, channels=1)
    torch.testing.assert_close(embedder(grey), network(grey.expand(-1, 3, -1, -1))[0], **NEAR)


# Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["timm:test_vit", "inception", "sscd", "onnx:a.onnx"])
@pytest.mark.parametrize("content", ["text", "empty", "code", "other"])
def test_a_file_that_holds_something_else(tmp_path, metric, content):
    file = tmp_path / ("a.onnx" if metric.startswith("onnx") else "a.pt")
    if content == "text":
        file.write_text("<html>not found</html>")
    elif content == "code":
        file.write_bytes(pickle.dumps(CodeOnLoad(tmp_path / "ran")))
    elif content == "other":
        torch.save({"weight": torch.zeros(3)}, file)
    else:
        file.touch()
    with pytest.raises(UserError, match=str(file)) as error:
        load_metric(metric, file, "cpu")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("metric", ["timm:test_vit", "dinov2", "clip", "sscd", "inception"])
def test_without_internet_one_line_says_how(tmp_path, monkeypatch, metric):
    def refuse(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(networks, "hub_folder", lambda: tmp_path)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(weights.socket, "create_connection", refuse)
    monkeypatch.setattr(weights, "getproxies", dict)
    with pytest.raises(UserError, match="--metric-weights") as error:
        load_metric(metric, None, "cpu")
    assert "Name or service not known" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "metric, package",
    [("timm:test_vit", "timm"), ("inception", "torch-fidelity"), ("onnx:a.onnx", "onnxruntime")],
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, metric, package):
    imported, module = builtins.__import__, package.replace("-", "_")

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == module:
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    def no_module(name):
        raise ImportError(name)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(networks, "import_module", no_module)
    (tmp_path / "a.onnx").touch()
    with pytest.raises(UserError, match=f"pip install {package}"):
        load_metric(metric, tmp_path / "a.onnx", "cpu")


def test_unknown_models_of_timm():
    with pytest.raises(UserError, match="resnet50"):
        load_metric("timm:resnt50", None, "cpu")
    with pytest.raises(UserError, match="no weights of it"):
        load_metric("timm:test_vit.other", None, "cpu")


def test_a_network_that_makes_no_vector(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same = torch.jit.trace(torch.nn.Identity(), torch.zeros(1, 3, 8, 8))
        torch.jit.save(same, tmp_path / "same.pt")
    with pytest.raises(UserError, match=r"same.pt: found an output of \[16, 3, 20, 20\]"):
        load_metric("torchscript:same.pt", tmp_path / "same.pt", "cpu")(images(2))


def test_an_input_that_the_network_cannot_take(small):
    embedder = load_metric("onnx:fixed.onnx", small[0] / "fixed.onnx", "cpu")
    assert embedder(images(2, 33)).shape == (2, 24)  # resized to the fixed 20 x 20
    with pytest.raises(UserError, match="--metric onnx:fixed.onnx: found images of 4 channels"):
        embedder(torch.zeros(2, 4, 20, 20))


def test_features_of_zero_have_no_nan():
    network = networks.Network(lambda x: 0 * x[:, :, 0, 0], lambda x: x, "", "zero", "")
    assert torch.equal(networks.normalised(network)(torch.zeros(2, 3, 4, 4)), torch.zeros(2, 3))
