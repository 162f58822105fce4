"""The pool of noised copies: DDIM's calls, and answers that do not depend on other copies."""

import pytest
import torch

from models.denoiser import Denoiser, NetworkDenoiser
from models.exact import ExactDenoiser
from models.samplers import ddim_step, recovery_times
from models.schedule import Schedule, add_noise
from models.unet import UNet
from utils.stages.critical_times.pool import Copy, RecoveryPool


class Spy(Denoiser):
    """Passes on to another denoiser and keeps the times and shapes of its calls."""

    def __init__(self, inner):
        self.inner, self.calls = inner, []
        self.shape, self.schedule, self.device = inner.shape, inner.schedule, inner.device

    def eps(self, x_t, t):
        return self.inner.eps(x_t, t)

    def x_0(self, x_t, t):
        self.calls.append((tuple(x_t.shape), t.tolist()))
        return self.inner.x_0(x_t, t)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    options = {"image_size": 8, "in_channels": 1, "dim": 32, "dim_mults": (1, 2)}
    net = UNet(**options, attn_resolutions=(4,), num_res_blocks=1)
    for parameter in net.parameters():  # the last layers begin at zero: then all is alike
        parameter.data += 0.02 * torch.randn_like(parameter)
    return NetworkDenoiser(net, Schedule(), (1, 8, 8))


@pytest.fixture(scope="module")
def exact():
    patterns = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return ExactDenoiser(patterns, Schedule())


def copies(count, times=(1, 26, 101, 501, 976)):
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(count, 1, 8, 8, generator=generator) * 2 - 1
    return [Copy(i, images[i], times[i % len(times)], seed=100 + i) for i in range(count)]


def run(denoiser, batch, expected, steps=20, eta=0.0):
    pool = RecoveryPool(denoiser, batch, steps, eta)
    pool.add(expected)
    result = {}
    while len(result) < len(expected):
        ended, images = pool.step()
        result.update({copy.name: image for copy, image in zip(ended, images, strict=True)})
    return result, pool


@pytest.mark.parametrize(
    ("t", "steps", "count"),
    [(1, 20, 1), (26, 20, 13), (51, 20, 17), (101, 20, 17), (501, 20, 20), (5, 20, 5), (999, 1, 1)],
)
def test_the_calls_of_ddim(t, steps, count):
    times = list(recovery_times(t, steps))
    stride = -(-t // min(steps, t))
    assert len(times) == count == -(-t // stride)
    assert times[0] == t and min(times) > 0 and max(times) == t
    assert all(a - b == stride for a, b in zip(times, times[1:], strict=False))


@pytest.mark.parametrize(("t", "steps"), [(0, 20), (5, 0), (-1, 20)])
def test_impossible_calls_are_refused(t, steps):
    with pytest.raises(ValueError, match="give 1 or more"):
        recovery_times(t, steps)


@pytest.mark.parametrize("eta", [0.0, 0.7])
@torch.no_grad()
def test_the_pool_is_ddim_written_out(exact, eta):
    """One copy after another, in a loop of its own: noise first, then z at each step."""
    for copy in copies(5):
        noise = torch.Generator().manual_seed(copy.seed)
        eps = torch.randn(copy.image.shape, generator=noise)
        schedule = exact.schedule
        x = add_noise(copy.image, eps, schedule.alpha_bar_at(copy.t))[None]
        assert torch.equal(x[0], copy.noised(exact))
        times = list(recovery_times(copy.t, 20))
        for t, s in zip(times, [*times[1:], None], strict=True):
            x_0 = exact.x_0(x, t)  # not clipped on the way
            if s is not None:
                z = torch.randn(copy.image.shape, generator=noise)[None] if eta else None
                x = ddim_step(x, x_0, *schedule.alpha_bar_at([t, s]), z, eta)
        (result,) = run(exact, 3, [copy], eta=eta)[0].values()
        torch.testing.assert_close(result, x_0[0].clamp(-1, 1), rtol=0, atol=1e-6)


def test_every_call_has_one_shape_and_no_time_is_0(exact):
    spy = Spy(exact)
    _, pool = run(spy, 4, copies(11))
    assert {shape for shape, _ in spy.calls} == {(4, 1, 8, 8)}
    assert min(min(times) for _, times in spy.calls) > 0
    expected = sum(len(recovery_times(copy.t, 20)) for copy in copies(11))
    assert pool.evaluations == expected and pool.calls == len(spy.calls)
    assert pool.calls < expected / 4 * 1.6  # the batch is refilled as copies end


@pytest.mark.parametrize("model", ["network", "exact"])
@pytest.mark.parametrize("batch", [7, 16])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_order_and_companions_change_no_bit(model, batch, eta, request):
    denoiser, expected = request.getfixturevalue(model), copies(20)
    whole, _ = run(denoiser, batch, expected, eta=eta)
    for others in (expected[::-1], expected[13:15], [expected[14]]):
        result, _ = run(denoiser, batch, others, eta=eta)
        assert all(torch.equal(result[name], whole[name]) for name in result)


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_with_the_exact_model_the_batch_changes_no_bit_either(exact, batch):
    whole, _ = run(exact, 8, copies(12))
    result, _ = run(exact, batch, copies(12))
    assert all(torch.equal(result[name], whole[name]) for name in whole)


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_with_a_network_it_changes_rounding(network, batch):
    whole, _ = run(network, 8, copies(12))
    result, _ = run(network, batch, copies(12))
    for name in whole:
        torch.testing.assert_close(result[name], whole[name], rtol=0, atol=1e-4)


def test_results_lie_in_the_range_of_images(network):
    result, _ = run(network, 8, copies(10))
    assert max(image.abs().max() for image in result.values()) <= 1


def test_an_empty_pool_calls_no_model(exact):
    spy = Spy(exact)
    ended, images = RecoveryPool(spy, 4, 20).step()
    assert not ended and not len(images) and not spy.calls
    with pytest.raises(ValueError, match="batch: found 0"):
        RecoveryPool(spy, 0, 20)


def test_what_was_dropped_does_not_come_back(exact):
    pool = RecoveryPool(exact, 2, 20)
    pool.add(copies(5))
    pool.step()
    pool.clear()
    assert pool.room == 2 and pool.step()[0] == []
