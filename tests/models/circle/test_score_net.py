"""The toy's networks: stacked and alone, saved and loaded, and the loss that makes them scores."""

import math

import pytest
import torch
from torch.nn import functional

from models.circle.exact import PatternMixture, circle_points
from models.circle.score_net import NetworkScore, ScoreNets, denoising_loss


def inputs(n, batch=16, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, batch, 2, generator=g)
    return (
        x,
        0.001 + 0.999 * torch.rand(n, batch, generator=g),
        torch.randn(n, batch, 2, generator=g),
    )


def test_a_network_is_the_written_formula():
    nets, (x, t, _) = ScoreNets([4]), inputs(1)
    w = {name: value[0] for name, value in nets.state_dict().items()}
    assert w["frequencies"].shape == (1, 64) and 10 < w["frequencies"].std() < 22  # scale 16
    phase = 2 * math.pi * t[0][:, None] * w["frequencies"]
    h = torch.cat([x[0], phase.sin(), phase.cos()], dim=1)
    h = functional.linear(h, torch.cat([w["weights.0"], w["time_weight"]]).T, w["biases.0"][0])
    for i in range(1, 5):
        h = functional.linear(functional.silu(h), w[f"weights.{i}"].T, w[f"biases.{i}"][0])
    torch.testing.assert_close(nets(x, t)[0], h / t[0].sqrt()[:, None], rtol=1e-4, atol=1e-5)


def test_a_network_does_not_know_its_companions():
    x, t, noise = inputs(3)
    stacked = ScoreNets([7, 8, 9])
    losses = denoising_loss(stacked, x, t, noise)
    losses.sum().backward()
    for i, seed in enumerate((7, 8, 9)):
        alone = ScoreNets([seed])
        for name, value in alone.state_of(0).items():
            assert torch.equal(value, stacked.state_of(i)[name]), name
        (loss,) = denoising_loss(alone, *(part[i : i + 1] for part in (x, t, noise)))
        loss.backward()
        torch.testing.assert_close(loss, losses[i], rtol=1e-5, atol=1e-6)
        for one, many in zip(alone.parameters(), stacked.parameters()):
            torch.testing.assert_close(one.grad[0], many.grad[i], rtol=1e-4, atol=1e-6)


def test_one_time_for_all_points_equals_a_time_for_each():
    nets, (x, _, _) = ScoreNets([1, 2]), inputs(2)
    each = nets(x, torch.full((2, 16), 0.3))
    torch.testing.assert_close(nets(x, torch.tensor([[0.3]])), each, rtol=1e-5, atol=1e-6)


def test_weights_go_from_one_stack_to_another():
    source, target, (x, t, _) = ScoreNets([1, 2]), ScoreNets([3, 4, 5]), inputs(1)
    before = target(x.expand(3, -1, -1), t.expand(3, -1)).detach()
    target.load_state_of(2, source.state_of(0))
    after = target(x.expand(3, -1, -1), t.expand(3, -1)).detach()
    assert torch.equal(before[:2], after[:2])
    torch.testing.assert_close(after[2:], source(x.expand(2, -1, -1), t.expand(2, -1))[:1])


def test_weights_that_do_not_fit_are_refused():
    nets, state = ScoreNets([1]), ScoreNets([1]).state_of(0)
    with pytest.raises(ValueError, match="weights: found"):
        nets.load_state_of(0, {k: v for k, v in state.items() if k != "time_weight"})
    with pytest.raises(ValueError, match=r"biases\.1: found \[1, 3\]"):
        nets.load_state_of(0, {**state, "biases.1": torch.zeros(1, 3)})


def test_network_score_takes_points_in_any_format():
    nets, (x, t, _) = ScoreNets([1]), inputs(1)
    score = NetworkScore(nets.state_of(0), torch.device("cpu"))
    expected = nets(x, t)[0]
    torch.testing.assert_close(score(x[0].double(), t[0].double()), expected.double())
    torch.testing.assert_close(score(x[0], 0.5), nets(x, torch.tensor([[0.5]]))[0])
    assert score(x[0].double(), 0.5).dtype == torch.float64


def test_the_exact_score_is_where_the_loss_is_least():
    """Over 200,000 draws at one time: moved by any small amount, the loss grows."""
    mixture = PatternMixture(circle_points(3, 0))
    g = torch.Generator().manual_seed(0)
    n, level = 200_000, 0.2
    x_0 = mixture.patterns[torch.randint(3, (n,), generator=g)][None]
    noise = torch.randn(1, n, 2, generator=g).double()
    t = torch.full((1, n), level, dtype=torch.float64)

    def loss(scale, shift):
        score = lambda x, t: scale * mixture.score(x[0], level)[None] + shift  # noqa: E731
        return denoising_loss(score, x_0, t, noise).item()

    best = loss(1.0, 0.0)
    assert all(loss(*moved) > best for moved in ((1.05, 0), (0.95, 0), (1, 0.1), (1, -0.1)))
    residual = (mixture.denoised((x_0 + math.sqrt(level) * noise)[0], level) - x_0[0]).square()
    assert best == pytest.approx(residual.mean().item() / level, rel=1e-9)
