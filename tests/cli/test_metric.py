"""One metric, by whichever flags it was named: its name, its weights, and what files store."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.cli.errors import UserError
from utils.cli.options.choices import METRIC_NAMES, is_normalised, metric_family
from utils.cli.options.metric import MetricOptions, stored_name

NAMES = (*METRIC_NAMES, "timm:resnet50", "timm:vit_small_patch14_dinov2.lvd142m")


@pytest.mark.parametrize("name", NAMES)
def test_files_tell_the_name(name):
    options = MetricOptions(metric=name)
    assert options.metric_name == name
    for stored in (options.metric_args(), options.stored_metric()):
        assert stored_name(stored) == name
    assert stored_name({**options.stored_metric(), **options.metric_args()}) == name


@pytest.mark.parametrize("network", ["alex", "vgg", "squeeze"])
def test_two_ways_to_name_lpips(network):
    one, other = MetricOptions(metric=network), MetricOptions(use_lpips=True, network=network)
    assert one.stored_metric() == other.stored_metric()
    assert one.metric_args() == other.metric_args()
    assert MetricOptions().stored_metric() == MetricOptions(metric="l2").stored_metric()


def test_a_file_is_stored_by_its_name_alone(tmp_path):
    (tmp_path / "net.onnx").touch()
    options = MetricOptions(metric=f"onnx:{tmp_path / 'net.onnx'}", metric_weights=Path("other"))
    assert options.metric_name == "onnx:net.onnx" and options.weights_path == tmp_path / "net.onnx"
    assert options.stored_metric()["metric"] == "onnx:net.onnx"
    assert MetricOptions(metric="sscd", metric_weights=Path("w")).weights_path == Path("w")
    assert MetricOptions(lpips_weights=Path("w")).weights_path == Path("w")


@pytest.mark.parametrize("name", ["", "resnet", "timm:", "onnx:", "onnx:absent.onnx", "l2 "])
def test_what_is_no_metric(name):
    with pytest.raises(UserError, match="--metric"):
        MetricOptions(metric=name)


def test_families():
    assert [metric_family(n) for n in ("l2", "vgg", "clip", "timm:x", "timm", "x")] == [
        *("l2", "lpips", "descriptor", "descriptor", None, None)
    ]
    unit = {name for name in NAMES if is_normalised(name)}
    assert unit == {"sscd", "clip", *NAMES[-2:]}
