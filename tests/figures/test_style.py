"""Colours, markers, lines and numbers of figures."""

import itertools

import numpy as np
import pytest

from tests.helpers.figures import (
    SEEN,
    cielab,
)
from tests.helpers.runs import ROOT
from utils.figures.style import LOOKS, distance_label, k_looks, three_digits


def test_cielab_of_known_colours():
    """sRGB's primaries, as in Lindbloom's tables."""
    known = {"#FF0000": (53.24, 80.09, 67.20), "#00FF00": (87.73, -86.18, 83.18)}
    for colour, lab in (known | {"#FFFFFF": (100, 0, 0), "#000000": (0, 0, 0)}).items():
        np.testing.assert_allclose(cielab(colour), lab, atol=0.02)


@pytest.mark.parametrize("seen", SEEN)
def test_classes_differ_in_colour(seen):
    """By 40 in CIELAB (2 is just seen), in grey by 15; from white and from a dark page by 25."""
    shown = [cielab(look.colour, seen) for look in LOOKS.values()]
    for one, other in itertools.combinations(shown, 2):
        assert np.linalg.norm(one - other) >= (15 if seen == "grey" else 40)
    for page in ("#FFFFFF", "#14171A"):
        assert min(np.linalg.norm(one - cielab(page, seen)) for one in shown) >= 25


def test_classes_differ_in_each_part_of_their_looks():
    for part in zip(*LOOKS.values(), strict=True):
        assert len(set(part)) == 3  # colour, marker, line and hatch each tell the class


def test_colours_of_classes_are_written_in_one_place():
    for path in (ROOT / "utils").rglob("*.py"):
        text = path.read_text().upper()
        result = [look.colour for look in LOOKS.values() if look.colour in text]
        assert len(result) == (3 if path == ROOT / "utils" / "figures" / "style.py" else 0), path


@pytest.mark.parametrize("count", [1, 2, 8])
def test_lines_of_K_differ_in_grey(count):
    """Darker for smaller K, the lightest well off white; neighbours differ in their dashes."""
    looks = list(k_looks(range(count, 0, -1)).values())
    assert list(k_looks(range(count, 0, -1))) == list(range(1, count + 1))
    lightness = [cielab(look["color"], "grey")[0] for look in looks]
    assert np.all(np.diff(lightness) > 5) and max(lightness) < 80
    assert all(a["linestyle"] != b["linestyle"] for a, b in itertools.pairwise(looks))


def test_numbers_of_a_table():
    values = (0, 0.7, 1.005, 12.34, 99.99, 1234.4, 2.5e7, 1.2e-5)
    shown = ["0.00", "0.700", "1.00", "12.3", "100", "1234", "2.50e+07", "1.20e-05"]
    assert [three_digits(value) for value in values] == shown
    assert distance_label("l2") == "Euclidean distance (L2)"
