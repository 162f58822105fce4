"""The network: published parameter counts, published numbers, and an independent implementation."""

import pytest
import torch

from models.layers import AttentionBlock, time_embedding
from models.unet import UNet
from utils.files.arrays import read_npz
from utils.files.tensors import load_torch
from utils.inputs.diffusers_names import diffusers_config, to_diffusers


@pytest.mark.parametrize(
    ("count", "dim", "mults", "side", "channels"),
    [
        (8_952_067, 64, (1, 2, 2, 2), 32, 3),
        (20_118_915, 96, (1, 2, 2, 2), 32, 3),
        (35_746_307, 128, (1, 2, 2, 2), 32, 3),
        (24_515_585, 128, (1, 2, 2), 28, 1),
        (27_460_355, 64, (1, 1, 2, 2, 4, 4), 64, 3),
        (61_745_283, 96, (1, 1, 2, 2, 4, 4), 64, 3),
        (109_733_379, 128, (1, 1, 2, 2, 4, 4), 64, 3),
    ],
)
def test_published_parameter_counts(count, dim, mults, side, channels):
    with torch.device("meta"):
        network = UNet(side, channels, dim, mults, (16,))
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize("weights", ["ema", "model"])
def test_the_original_checkpoint_gives_the_original_numbers(shared, weights):
    state = load_torch(shared / "reference" / "16.pt")[weights]
    arrays = read_npz(shared / "reference" / "16_forward.npz")
    network = UNet(28, 1, 32, (1, 2), (14,), num_res_blocks=1).eval()
    network.load_state_dict(state, strict=True)
    with torch.no_grad():
        out = network(torch.tensor(arrays["x"]), torch.tensor(arrays["t"]))
    torch.testing.assert_close(out, torch.tensor(arrays[f"{weights}_out"]), rtol=0, atol=1e-5)


def built_by_diffusers(network: UNet, mults: tuple, attention: tuple, blocks: int):
    """The same network as diffusers builds it, with our weights."""
    from diffusers import UNet2DModel

    options = {
        **{"image_size": network.image_size, "in_channels": network.in_channels},
        **{"dim": network.dim, "dim_mults": mults, "attn_resolutions": attention},
        **{"num_res_blocks": blocks, "dropout": 0.0, "conditional": True},
        **{"resamp_with_conv": True, "nonlinearity": "swish", "scale_by_sigma": False},
    }
    other = UNet2DModel(**diffusers_config(options)).eval()
    other.load_state_dict(to_diffusers(network.state_dict(), options), strict=True)
    return other


@pytest.mark.parametrize(
    ("side", "mults", "attention", "blocks"),
    [(8, (1, 2), (4,), 1), (16, (1, 2, 2), (8, 4), 2), (28, (1, 2, 2), (16,), 2)],
)
def test_agrees_with_diffusers(side, mults, attention, blocks):
    torch.manual_seed(0)
    network = UNet(side, 3, 32, mults, attention, blocks).eval()
    for parameter in network.parameters():  # the published start has zeros, which hide errors
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    other = built_by_diffusers(network, mults, attention, blocks)
    x, t = torch.randn(3, 3, side, side), torch.tensor([0, 500, 999])
    with torch.no_grad():
        ours, theirs = network(x, t), other(x, t).sample
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_an_unconditional_network_ignores_the_time():
    network = UNet(8, 1, 32, (1, 2), (), 1, conditional=False).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(network(x, torch.zeros(2)), network(x, torch.full((2,), 900)))


def test_resampling_without_convolutions_has_no_parameters():
    with_conv = UNet(8, 1, 32, (1, 1), (), 1)
    without = UNet(8, 1, 32, (1, 1), (), 1, resamp_with_conv=False)
    count = lambda n: sum(p.numel() for p in n.parameters())  # noqa: E731
    assert count(with_conv) - count(without) == 2 * (32 * 32 * 9 + 32)
    assert without(torch.randn(1, 1, 8, 8), torch.zeros(1)).shape == (1, 1, 8, 8)


def test_a_new_network_predicts_nothing():
    """The last convolution starts at (almost) zero, so the first loss is that of eps: 1."""
    out = UNet(8, 1, 32, (1, 2), (4,), 1)(torch.randn(2, 1, 8, 8), torch.zeros(2))
    assert out.abs().max() < 1e-3


def test_attention_equals_the_formula():
    torch.manual_seed(0)
    block = AttentionBlock(32)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 32, 4, 4)
    h = block.GroupNorm_0(x).flatten(2)  # [B, C, P]
    q, k, v = (
        torch.einsum("bcp,cd->bpd", h, nin.W) + nin.b
        for nin in (block.NIN_0, block.NIN_1, block.NIN_2)
    )
    weights = torch.softmax(q @ k.transpose(1, 2) / 32**0.5, dim=-1)
    out = (weights @ v) @ block.NIN_3.W + block.NIN_3.b
    expected = x + out.transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


def test_time_embedding_is_sine_then_cosine():
    row = time_embedding(torch.tensor([3]), 8)[0]
    frequencies = 10_000.0 ** (-torch.arange(4) / 3)
    torch.testing.assert_close(row, torch.cat([(3 * frequencies).sin(), (3 * frequencies).cos()]))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dim": 48}, "dim: found 48"), ({"image_size": 30}, "image_size: found 30")],
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        UNet(**options)
