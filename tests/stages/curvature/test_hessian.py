"""Curvature: spectra, traces and dimensions against closed forms."""

import warnings
from functools import partial

import pytest
import torch

from models.denoiser import Denoiser, NetworkDenoiser
from models.exact import ExactDenoiser
from models.unet import UNet
from tests.helpers.images import real_digits
from tests.helpers.models import (
    SCHEDULE,
    Linear,
    both,
    matrix_products,
    normal,
    of_spectrum,
    seeded,
    signs,
)
from utils.stages.curvature.hessian import (
    Field,
    end_curvatures,
    flat_directions,
    full_curvatures,
    normal_bundle,
    points_at,
)
from utils.stages.curvature.lanczos import complement_trace, whole_spectra

FIELDS = ("eigenvalues", "trace", "flipd", "asymmetry")


def field(denoiser, x, t, batch=64):
    t = torch.as_tensor(t).expand(len(x)).clone()
    return Field(denoiser, points_at(x, t, denoiser), t, batch)


def ends(field, count=4, probes=8, tolerance=1e-7, seed=0):
    n, dim = len(field.x_t), field.dim
    starts = normal(n, count, dim, seed=seed)
    return end_curvatures(field, starts, signs(n, probes, dim, seed=seed + 1), tolerance)


@pytest.fixture(scope="module")
def digits():
    """Real digits in float64, [100, 1, 8, 8] in [-1, 1]."""
    return real_digits(100).double()


@pytest.fixture(scope="module")
def network():
    """A network of random weights, whose field is no gradient."""
    torch.manual_seed(0)
    net = UNet(8, 1, 32, (1, 2), (4,))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return NetworkDenoiser(net, SCHEDULE, (1, 8, 8))


class Subspace(Denoiser):
    """Gaussian data of variance tau^2 on the first d of D axes turned by an orthogonal matrix."""

    def __init__(self, dim, d, tau):
        q = torch.linalg.qr(normal(dim, dim, seed=5)).Q
        self.projector, self.tau = q[:, :d] @ q[:, :d].T, tau
        self.schedule, self.shape, self.device = SCHEDULE, (1, 1, dim), torch.device("cpu")

    def eps(self, x_t, t):
        alpha_bar = SCHEDULE.alpha_bar_at(torch.as_tensor(t).expand(len(x_t)))[:, None]
        flat = x_t.flatten(1)
        along = flat @ self.projector
        variance = alpha_bar * self.tau**2 + 1 - alpha_bar
        eps = (1 - alpha_bar).sqrt() * along / variance + (flat - along) / (1 - alpha_bar).sqrt()
        return eps.reshape(x_t.shape)


# The exact model: everything is known


@pytest.mark.parametrize("k", [1, 2, 16, 64])
@pytest.mark.parametrize("t", [0, 5, 50, 200, 900])
def test_the_exact_model_has_its_own_hessian(digits, k, t):
    """Eigenvalues, trace and FLIPD at patterns, other digits, and between two patterns."""
    denoiser = ExactDenoiser(digits[:k], SCHEDULE)
    x = torch.cat([digits[:2], digits[70:72], (digits[:1] + digits[1:2]) / 2])
    f = field(denoiser, x, t)
    result = full_curvatures(f)
    hessian, alpha_bar = denoiser.hessian(f.x_t, t), SCHEDULE.alpha_bar[t]
    values = torch.linalg.eigvalsh(hessian)
    scale = values.abs().amax(1, keepdim=True)
    assert ((result.eigenvalues - values).abs() <= 1e-8 * scale).all()
    trace = hessian.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(result.trace, trace, rtol=1e-8, atol=0)
    score = denoiser.score(f.x_t, t).flatten(1)
    lid = 64 + (1 - alpha_bar) * (score.square().sum(1) - trace)
    torch.testing.assert_close(result.flipd, lid, rtol=1e-8, atol=1e-6)
    assert (result.asymmetry < 1e-7).all() and not result.trace_error.any()
    assert torch.equal(result.flat, ((1 - alpha_bar) * values < 0.5).sum(1))


@pytest.mark.parametrize(("k", "t"), [(1, 50), (2, 5), (16, 200), (64, 50), (64, 200), (64, 400)])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_both_ends_are_those_of_the_whole(digits, k, t, count):
    """With multiplicity: around a pattern 1 / (1 - alpha_bar) comes many times."""
    denoiser = ExactDenoiser(digits[:k], SCHEDULE)
    f = field(denoiser, torch.cat([digits[:2], digits[70:72], (digits[:1] + digits[1:2]) / 2]), t)
    whole, result = full_curvatures(f), ends(f, count)
    scale = whole.eigenvalues.abs().max()
    expected = both(whole.eigenvalues, count)
    torch.testing.assert_close(result.eigenvalues, expected, rtol=0, atol=1e-6 * scale.item())
    assert (result.residuals <= 1e-7 * scale).all() and (result.residuals >= 0).all()
    off, rounding = (result.trace - whole.trace).abs(), 1e-9 * whole.trace.abs()
    assert (off <= 5 * result.trace_error + rounding).all()
    noise = 1 - SCHEDULE.alpha_bar[t]
    torch.testing.assert_close(
        result.flipd - whole.flipd, -noise * (result.trace - whole.trace), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(result.flipd_error, noise * result.trace_error)
    known = whole.flat < count
    assert torch.equal(result.flat, torch.where(known, whole.flat, -1))


def test_a_memorized_sample_is_a_bowl(digits):
    """At small t only its own pattern is near: H = I / (1 - alpha_bar), so nothing is flat, and
    the estimates are exact."""
    f = field(ExactDenoiser(digits[:64], SCHEDULE), digits[:3], 20)
    noise = 1 - SCHEDULE.alpha_bar[20]
    for result in (full_curvatures(f), ends(f)):
        torch.testing.assert_close(
            noise * result.eigenvalues, torch.ones_like(result.eigenvalues), rtol=1e-9, atol=0
        )
        torch.testing.assert_close(noise * result.trace, torch.full((3,), 64.0).double())
        assert (noise * result.trace_error < 1e-9).all() and not result.flat.any()
        assert (result.flipd.abs() < 1e-6).all()


def test_between_two_patterns_the_energy_bends_down(digits):
    """H along their difference: (1 - a |y_1 - y_2|^2 / 4 / (1 - a)) / (1 - a) in the middle."""
    f = field(ExactDenoiser(digits[:2], SCHEDULE), (digits[:1] + digits[1:2]) / 2, 50)
    a, gap = SCHEDULE.alpha_bar[50], (digits[0] - digits[1]).square().sum()
    expected = (1 - a * gap / 4 / (1 - a)) / (1 - a)
    for result in (full_curvatures(f), ends(f)):
        assert expected < 0 and result.flat.item() == 1
        assert result.eigenvalues[0, 0].item() == pytest.approx(expected.item(), rel=1e-9)


# Networks


def test_both_ends_of_a_network(network, digits):
    f = field(network, digits[:2].float(), torch.tensor([5, 300]))
    whole, result = full_curvatures(f), ends(f, tolerance=1e-5)
    scale = whole.eigenvalues.abs().max().item()
    expected = both(whole.eigenvalues, 4)
    torch.testing.assert_close(result.eigenvalues, expected, rtol=0, atol=1e-4 * scale)
    assert ((result.trace - whole.trace).abs() <= 5 * result.trace_error + 1e-4 * scale).all()
    assert (whole.asymmetry > 0.1).all()  # random weights are no gradient field
    torch.testing.assert_close(result.asymmetry, whole.asymmetry, rtol=0.2, atol=0)


def test_a_network_by_finite_differences_of_its_score(network, digits):
    """H v = -(s(x + h v) - s(x - h v)) / 2 h, computed in float64 throughout."""
    t, h = 50, 1e-5
    twin = NetworkDenoiser(double(network.network), SCHEDULE, (1, 8, 8))
    twin.output = lambda x, t: twin.network(x, torch.as_tensor(t).expand(len(x)))
    x = points_at(digits[:1], torch.tensor([t]), twin)
    steps = h * torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
    rows = [(twin.score(x + sign * steps, t)).flatten(1) for sign in (1, -1)]
    hessian = -(rows[0] - rows[1]) / (2 * h)  # row i: the derivative along axis i
    expected = torch.linalg.eigvalsh((hessian + hessian.T) / 2)
    result = full_curvatures(field(network, digits[:1].float(), t))
    scale = expected.abs().max().item()
    torch.testing.assert_close(result.eigenvalues[0], expected, rtol=0, atol=1e-4 * scale)
    skew = ((hessian - hessian.T) / 2).norm() / hessian.norm()
    assert result.asymmetry.item() == pytest.approx(skew.item(), rel=1e-4)


def double(network):
    """The network in float64, its time embedding too."""
    import copy

    import models.unet as unet

    twin = copy.deepcopy(network).double()
    embed = unet.time_embedding
    forward = type(twin).forward

    def run(x, t):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(unet, "time_embedding", lambda t, dim: embed(t, dim).double())
            return forward(twin, x, t)

    twin.forward = run
    return twin


def assert_batch_changes_rounding_only(denoiser, x, batch, tolerance):
    t = torch.tensor([50, 200])
    for work in (full_curvatures, partial(ends, tolerance=1e-5)):
        whole, result = work(field(denoiser, x, t)), work(field(denoiser, x, t, batch))
        for name in FIELDS:
            a, b = getattr(result, name), getattr(whole, name)
            atol = tolerance * max(1, b.abs().max().item())
            torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_batches_change_rounding_only(digits, batch):
    denoiser = ExactDenoiser(digits[:16], SCHEDULE)
    assert_batch_changes_rounding_only(denoiser, digits[20:22], batch, 1e-9)


@pytest.mark.slow
def test_batches_of_a_network_change_rounding_only(network, digits):
    assert_batch_changes_rounding_only(network, digits[:2].float(), 7, 1e-4)


def test_other_images_of_a_batch_change_nothing(digits):
    """A matrix that is done leaves: its answer is the same beside one that takes longer."""
    denoiser = ExactDenoiser(digits[:64], SCHEDULE)
    x, t = torch.cat([digits[:1], digits[70:71]]), torch.tensor([50, 300])
    starts, probes = normal(2, 3, 64), signs(2, 5, 64)
    together = end_curvatures(field(denoiser, x, t), starts, probes, 1e-3)
    for i in (0, 1):
        alone = end_curvatures(
            field(denoiser, x[i : i + 1], t[i : i + 1]),
            *(v[i : i + 1] for v in (starts, probes)),
            1e-3,
        )
        for name in (*FIELDS, "residuals"):
            torch.testing.assert_close(
                getattr(alone, name)[0], getattr(together, name)[i], rtol=1e-9, atol=1e-7
            )


def test_a_field_that_is_not_finite_is_refused(digits):
    f = field(Linear(torch.full((12, 12), torch.nan)), torch.zeros(1, 1, 1, 12), 5)
    for work in (full_curvatures, ends):
        with pytest.raises(ValueError, match="NaN or infinite"):
            work(f)
    with pytest.raises(ValueError, match="batch"):
        field(Linear(torch.eye(8)), torch.zeros(1, 1, 1, 8), 5, batch=0)


@pytest.mark.parametrize("held", [0, 10])
def test_the_trace_is_unbiased_and_its_error_right(held):
    """200 repeats with other probes on one basis: means, and the share within 1.96 errors."""
    dim, repeats, probes = 80, 200, 64
    matrix = (normal(dim, dim, seed=1) + 3 * torch.eye(dim))[None]
    basis = torch.linalg.qr(normal(1, dim, held + 1, seed=2)).Q.mT
    images = basis @ ((matrix + matrix.mT) / 2)
    products = matrix_products(matrix.expand(repeats, -1, -1))
    trace, error, asymmetry = complement_trace(
        products,
        torch.arange(repeats),
        *(b.expand(repeats, -1, -1) for b in (basis, images)),
        signs(repeats, probes, dim, seed=3),
    )
    exact = whole_spectra(matrix)
    off = trace - exact.trace
    assert abs(off.mean()) <= 3 * off.std() / repeats**0.5
    assert 0.85 <= error.square().mean().sqrt() / off.std() <= 1.15
    share = (off.abs() <= 1.96 * error).double().mean().item()
    assert (
        0.95 - 3 * (0.95 * 0.05 / repeats) ** 0.5 <= share <= 0.95 + 3 * (0.0475 / repeats) ** 0.5
    )
    assert asymmetry.mean().item() == pytest.approx(exact.asymmetry.item(), rel=0.01)


def test_a_field_that_is_no_gradient():
    """J = S + A: the eigenvalues are those of S, the share of A is told."""
    s, a = of_spectrum(torch.linspace(-1, 4, 30).double()), normal(30, 30, seed=4)
    a = 0.7 * (a - a.T)
    f = field(Linear(s + a), normal(2, 1, 1, 30, seed=6), 100)
    sigma = (1 - SCHEDULE.alpha_bar[100]).sqrt()
    expected = a.norm() / (s + a).norm()
    whole, result = full_curvatures(f), ends(f, probes=4000)
    values = torch.linspace(-1, 4, 30).double() / sigma
    torch.testing.assert_close(whole.eigenvalues, values.expand(2, -1), atol=1e-9, rtol=0)
    torch.testing.assert_close(result.eigenvalues, both(values, 4).expand(2, -1), atol=1e-6, rtol=0)
    torch.testing.assert_close(whole.trace, values.sum().expand(2))
    torch.testing.assert_close(whole.asymmetry, expected.expand(2))
    torch.testing.assert_close(result.asymmetry, expected.expand(2), rtol=0.02, atol=0)
    turn = whole_spectra((a[None], s[None])[0])
    assert turn.asymmetry.item() == pytest.approx(1) and turn.eigenvalues.abs().max() < 1e-12


def test_a_jacobian_is_no_transposed_one():
    matrix, v = normal(9, 9, seed=1), normal(2, 3, 9, seed=2)
    f = field(Linear(matrix), normal(2, 1, 1, 9), 5, batch=4)
    torch.testing.assert_close(f.jacobians(), matrix.expand(2, -1, -1))
    forward, backward = f.products(torch.tensor([1, 0]), v)
    torch.testing.assert_close(forward, v @ matrix.T)
    torch.testing.assert_close(backward, v @ matrix)


# Dimensions


@pytest.mark.parametrize(("d", "t"), [(1, 0), (5, 20), (12, 100), (19, 20)])
def test_gaussian_data_on_a_subspace(d, t):
    """tau >> sigma: flat = d, and so is the normal-bundle count. FLIPD in closed form:
    D - (D - d) - d r + |eps|^2, r = (1 - a) / (a tau^2 + 1 - a), |eps|^2 = a (1 - a) |x|^2 / v^2.
    """
    dim, tau = 20, 3.0
    denoiser, a = Subspace(dim, d, tau), SCHEDULE.alpha_bar[t].item()
    x = tau * (normal(6, dim, seed=7) @ denoiser.projector).reshape(6, 1, 1, dim)
    variance = a * tau**2 + 1 - a
    expected = d - d * (1 - a) / variance + a * (1 - a) * x.flatten(1).square().sum(1) / variance**2
    f = field(denoiser, x, t)
    whole = full_curvatures(f)
    torch.testing.assert_close(whole.flipd, expected, rtol=1e-8, atol=1e-8)
    assert (whole.flat == d).all()
    result = ends(f, count=6)
    assert ((result.flipd - expected).abs() <= 5 * result.flipd_error + 1e-8).all()
    assert (result.flat == (d if d < 6 else -1)).all()
    noise = [normal(40, 1, 1, dim, seed=8), normal(40, 1, 1, dim, seed=9)]
    assert [normal_bundle(denoiser, image, t, noise) for image in x / 4] == [d] * 6


def test_patterns_in_a_subspace():
    """The exact model of 4,000 points of a plane in 12 dimensions: a plane, seen from t = 100."""
    axes = torch.linalg.qr(normal(12, 2, seed=3)).Q
    patterns = ((2 * torch.rand(4000, 2, generator=seeded(4)) - 1).double() @ axes.T)[:, None, None]
    denoiser = ExactDenoiser(patterns, SCHEDULE)
    inner = patterns[patterns.flatten(1).norm(dim=1) < 0.4][:5]
    t = 100
    result = full_curvatures(field(denoiser, inner, t))
    assert (result.flat == 2).all()
    assert ((result.flipd - 2).abs() < 0.5).all()
    noise = [normal(48, 1, 1, 12, seed=5)]
    assert [normal_bundle(denoiser, image, t, noise) for image in inner] == [2] * 5


def test_flat_directions_of_a_part():
    values = torch.tensor([[-3.0, 0.2, 0.9, 1.0], [-3.0, 0.6, 0.9, 1.0]]).double()
    alpha_bar = torch.zeros(2).double()
    assert flat_directions(values, alpha_bar, 4).tolist() == [2, 1]
    assert flat_directions(values, alpha_bar, 9).tolist() == [-1, 1]
    assert flat_directions(values, alpha_bar + 0.5, 4).tolist() == [3, 3]


def test_the_count_of_normals_needs_points():
    denoiser = Subspace(8, 2, 1.0)
    with pytest.raises(ValueError, match="found 7; give 8 or more"):
        normal_bundle(denoiser, torch.zeros(1, 1, 8).double(), 5, [normal(7, 1, 1, 8)])
    with pytest.raises(ValueError, match="NaN or infinite"):
        normal_bundle(
            Linear(torch.full((8, 8), torch.nan)), torch.zeros(1, 1, 8), 5, [normal(8, 1, 1, 8)]
        )


def test_points_lie_at_the_mean_of_the_noised(digits):
    x = points_at(digits[:2], torch.tensor([0, 500]), ExactDenoiser(digits[:2], SCHEDULE))
    torch.testing.assert_close(x[1], SCHEDULE.alpha_bar[500].sqrt() * digits[1])
    assert x.dtype == torch.float64


def test_other_warnings_are_not_silenced(network, digits):
    with pytest.warns(UserWarning, match="heard"):
        full_curvatures(field(Loud(torch.eye(8).double()), torch.zeros(1, 1, 1, 8).double(), 5))


class Loud(Linear):
    def eps(self, x_t, t):
        warnings.warn("heard", UserWarning, stacklevel=1)
        return super().eps(x_t, t)
