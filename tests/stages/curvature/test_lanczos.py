"""Both ends of a spectrum by block Lanczos, against dense eigenvalues."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from tests.helpers.models import both, matrix_products, normal, of_spectrum, signs
from utils.stages.curvature.lanczos import both_ends, rayleigh_ritz, whole_spectra


def test_both_ends_agree_with_scipy():
    """On one operator of 300 dimensions, not symmetric: eigsh finds those of its symmetric part."""
    j = normal(300, 300, seed=3)
    s = ((j + j.T) / 2).numpy()
    operator = LinearOperator(s.shape, matvec=lambda v: s @ v, dtype=np.float64)
    result = both_ends(matrix_products(j[None]), normal(1, 5, 300), signs(1, 4, 300), 1e-9)
    low, high = (np.sort(eigsh(operator, 5, which=w, tol=1e-12)[0]) for w in ("SA", "LA"))
    np.testing.assert_allclose(result.eigenvalues[0], np.concatenate([low, high]), rtol=1e-9)


@pytest.mark.parametrize("times", [1, 3, 4, 5])
def test_eigenvalues_that_come_several_times(times):
    """A block of 4 finds one up to 4 times; one that comes 5 times fills its end."""
    values = torch.cat(
        [torch.full((times,), -2.0), torch.linspace(-1, 1, 90), torch.full((9,), 3.0)]
    )
    values = values.double()
    matrix = of_spectrum(values)[None]
    dim = len(values)
    result = both_ends(matrix_products(matrix), normal(1, 4, dim), signs(1, 2, dim), 1e-9)
    torch.testing.assert_close(
        result.eigenvalues[0], both(values.sort().values, 4), atol=1e-7, rtol=0
    )


@pytest.mark.parametrize("rank", [0, 1, 2, 7])
def test_an_invariant_subspace_is_left(rank):
    """c I plus a few other directions: blocks run dry at once, and random ones go on."""
    values = torch.cat([torch.linspace(-5, -1, rank), torch.full((40 - rank,), 2.0)]).double()
    matrix = of_spectrum(values)[None]
    result = both_ends(matrix_products(matrix), normal(1, 3, 40), signs(1, 2, 40), 1e-8)
    torch.testing.assert_close(result.eigenvalues[0], both(values, 3), atol=1e-7, rtol=0)
    zero = both_ends(matrix_products(0 * matrix), normal(1, 3, 40), signs(1, 2, 40), 1e-8)
    assert not zero.eigenvalues.any() and zero.asymmetry == 0


def test_a_block_that_adds_nothing_is_filled_up():
    """Axes of a diagonal matrix: their images add exactly nothing, and nor does an axis again."""
    diagonal = torch.linspace(1, 12, 12).double()
    starts = torch.eye(12, dtype=torch.float64)[None, 3:6]
    result = both_ends(matrix_products(diagonal.diag()[None]), starts, signs(1, 2, 12), 1e-12)
    expected = both(diagonal, 3)
    # Three eigenvectors alone would have passed the test of residuals, were there no others.
    torch.testing.assert_close(result.eigenvalues[0], expected, atol=1e-9, rtol=0)


def test_a_basis_as_large_as_the_space_is_exact():
    matrix = normal(1, 23, 23, seed=8)
    result = both_ends(matrix_products(matrix), normal(1, 4, 23), signs(1, 2, 23), 1e-15)
    whole = whole_spectra(matrix)
    torch.testing.assert_close(result.eigenvalues, both(whole.eigenvalues, 4))
    torch.testing.assert_close(result.trace, whole.trace)


def test_a_basis_is_no_larger_than_its_limit():
    """What it then has is told with its residuals: a bound on the distance to an eigenvalue."""
    matrix, sizes = normal(1, 200, 200, seed=9), []
    products = matrix_products(matrix)

    def counted(which, v):
        sizes.append(v.shape[1])
        return products(which, v)

    result = both_ends(counted, normal(1, 4, 200), signs(1, 3, 200), 1e-12, most=30)
    assert sum(sizes[:-1]) == 30 and sizes[-1] == 3
    every = whole_spectra(matrix).eigenvalues[0]
    gaps = (result.eigenvalues[0][:, None] - every).abs().amin(1)
    assert (result.residuals > 1e-3).any() and (gaps <= result.residuals[0] + 1e-9).all()
    with pytest.raises(ValueError, match="fewer than 8 / 2"):
        both_ends(products, normal(1, 4, 200), signs(1, 3, 200), 1e-3, most=8)


def test_residuals_are_those_of_unit_vectors():
    matrix = of_spectrum(torch.linspace(0, 1, 30).double())[None]
    basis = torch.linalg.qr(normal(1, 30, 10, seed=2)).Q.mT
    values, residuals = rayleigh_ritz(basis, basis @ matrix, 2)
    small = basis[0] @ matrix[0] @ basis[0].T
    theta, y = torch.linalg.eigh(small)
    for i, j in enumerate((0, 1, 8, 9)):
        u = y[:, j] @ basis[0]
        assert values[0, i].item() == pytest.approx(theta[j].item())
        expected = (matrix[0] @ u - theta[j] * u).norm().item()
        assert residuals[0, i].item() == pytest.approx(expected, rel=1e-9)
