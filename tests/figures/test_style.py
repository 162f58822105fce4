"""Colours, markers, lines and numbers of figures."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from tests.helpers.runs import ROOT
from utils.figures.style import LOOKS, distance_label, k_looks, three_digits

# How colours are seen, as matrices on linear RGB: by Machado, Oliveira and Fernandes 2009, A
# Physiologically-based Model for Simulation of Color Vision Deficiency, IEEE TVCG 15(6), matrices
# for severity 1.0 in its supplement; in grey by the luminance of sRGB, IEC 61966-2-1.
SEEN = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "grey": [[0.212639, 0.715169, 0.072192]] * 3,
}
SRGB_TO_XYZ = np.array(
    [[0.412391, 0.357584, 0.180481], [0.212639, 0.715169, 0.072192], [0.019331, 0.119195, 0.950532]]
)


def cielab(colour, seen="full"):
    """L, a and b (D65) of a colour, as it is seen."""
    coded = np.array(to_rgb(colour))
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(SEEN[seen]) @ linear, 0, 1)
    xyz = SRGB_TO_XYZ @ linear / SRGB_TO_XYZ.sum(axis=1)
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


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
