"""What holds for every machine: batches, types, schedules, derivatives, messages, memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import jacfwd, jacrev, jvp, vjp

from models.exact import ExactDenoiser
from models.machines.build import PATCHED, WHOLE, build_machine
from models.machines.equivariant import EquivariantDenoiser
from models.machines.local import LocalDenoiser, PcaLocalDenoiser
from models.machines.wiener import WienerDenoiser
from models.schedule import Schedule
from tests.helpers import machines as brute
from tests.helpers.models import normal, seeded, uniform
from tests.helpers.runs import ROOT

SCHEDULE = Schedule()
NAMES = [*WHOLE, *PATCHED]
CIRCULAR = {
    "local, circular": LocalDenoiser,
    "equivariant, circular": EquivariantDenoiser,
}
IMAGES = ("x_0", "eps", "score")
OTHER_KINDS = [*CIRCULAR, "equivariant, 20 patches", "pca-local, sparse"]
every_machine = pytest.mark.parametrize("name", [*NAMES, *OTHER_KINDS])
every_name = pytest.mark.parametrize("name", NAMES)
patched = pytest.mark.parametrize("name", PATCHED)


def machine(name, patterns, schedule=SCHEDULE, sides=3):
    if name in CIRCULAR:
        return CIRCULAR[name](patterns, schedule, sides, "circular")
    if name.endswith("patches"):
        return build_machine("equivariant", patterns, schedule, sides, most_patches=20)
    if name.endswith("sparse"):  # 1 of 12 pixels or more: few enough
        return build_machine("pca-local", patterns, schedule, 1)
    return build_machine(name, patterns, schedule, sides)


def test_names():
    classes = (
        ExactDenoiser,
        WienerDenoiser,
        LocalDenoiser,
        EquivariantDenoiser,
        PcaLocalDenoiser,
    )
    assert NAMES == ["exact", "wiener", "local", "equivariant", "pca-local"]
    for name, expected in zip(NAMES, classes):
        assert type(machine(name, uniform(3, 1, 4, 4))) is expected


def test_options_arrive():
    patterns = uniform(5, 1, 4, 4)
    built = build_machine("equivariant", patterns, SCHEDULE, {0: 3, 900: 1}, most_patches=6)
    assert built.most_patches == 6 and built.borders == "image"
    assert [built.side(SCHEDULE.alpha_bar[t].item()) for t in (0, 900)] == [3, 1]


@every_machine
@pytest.mark.parametrize("side", [7, 8])  # odd images begin anywhere in memory
def test_no_bit_depends_on_the_other_rows(name, side):
    patterns, sides = uniform(50, 1, side, side), {0: 1, 300: 3, 900: 5}
    t = torch.randint(0, 1000, (20,), generator=seeded(1))
    t[::2] = 300
    a = SCHEDULE.alpha_bar_at(t)[:, None, None, None]
    x = a.sqrt() * patterns[:20] + (1 - a).sqrt() * normal(20, 1, side, side)
    denoiser = machine(name, patterns, sides=sides)
    whole = {what: getattr(denoiser, what)(x, t) for what in IMAGES}
    for batch in (1, 3, 8):
        rows = torch.randperm(20, generator=seeded(batch))[:batch]
        for what, expected in whole.items():
            assert torch.equal(getattr(denoiser, what)(x[rows], t[rows]), expected[rows])
    for i in range(4):
        assert torch.equal(denoiser.x_0(x[i : i + 1], t[i].item()), whole["x_0"][i : i + 1])


@every_machine
def test_eps_and_score_follow_from_x_0(name):
    patterns = uniform(20, 3, 4, 5)
    x, t = brute.points(patterns, 300, SCHEDULE), torch.tensor([0, 30, 300, 999])
    denoiser, a = machine(name, patterns), SCHEDULE.alpha_bar_at(t)[:, None, None, None]
    noise = x - a.sqrt() * denoiser.x_0(x, t)
    torch.testing.assert_close(denoiser.eps(x, t), noise / (1 - a).sqrt(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(denoiser.score(x, t), -noise / (1 - a), rtol=1e-12, atol=1e-12)


@every_machine
def test_float32_rounds_the_float64_answer_once(name):
    patterns = uniform(20, 1, 5, 6).float()
    x = brute.points(patterns, 300, SCHEDULE).float()
    single, double = machine(name, patterns), machine(name, patterns.double())
    for what in IMAGES:
        result = getattr(single, what)(x, 300)
        assert result.dtype == torch.float32
        expected = getattr(double, what)(x.double(), 300)
        assert expected.dtype == torch.float64
        torch.testing.assert_close(result, expected.float(), rtol=2e-7, atol=1e-9)


@every_machine
def test_no_rows_give_no_rows(name):
    denoiser, empty = machine(name, uniform(3, 3, 4, 4)), torch.zeros(0, 3, 4, 4)
    for what in IMAGES:
        for t in (5, torch.zeros(0, dtype=torch.int64)):
            result = getattr(denoiser, what)(empty, t)
            assert result.shape == empty.shape and result.dtype == torch.float32


@pytest.mark.parametrize("t", [0, 300, 999])
@every_name
def test_one_pattern_is_the_answer(name, t):
    patterns, x = uniform(1, 3, 4, 5), normal(2, 3, 4, 5)
    if name == "equivariant":  # its patches are several: those of the image cover it
        result = build_machine(name, patterns, SCHEDULE, 9).x_0(x, t)
    else:
        result = machine(name, patterns).x_0(x, t)
    torch.testing.assert_close(result, patterns.expand_as(x), rtol=0, atol=1e-12)


@every_machine
def test_patterns_stay_as_they_are(name):
    patterns, x = uniform(20, 1, 5, 6), normal(2, 1, 5, 6)
    before, x_before = patterns.clone(), x.clone()
    machine(name, patterns).x_0(x, 300)
    assert torch.equal(patterns, before) and torch.equal(x, x_before)


OTHERS = {
    "cosine": Schedule(1000, "cosine"),
    "ten": Schedule.from_alpha_bar(torch.linspace(0.999, 0.01, 10)),
}


@pytest.mark.parametrize("schedule", OTHERS)
@every_machine
def test_only_alpha_bar_counts(name, schedule):
    """Another schedule with the same alpha_bar at another time gives the same answer."""
    patterns, x, schedule = uniform(20, 1, 5, 6), normal(2, 1, 5, 6), OTHERS[schedule]
    t = 4 * schedule.timesteps // 10
    value = schedule.alpha_bar[t].item()
    levels = torch.tensor([0.9999, value, value / 2], dtype=torch.float64)
    same = Schedule.from_alpha_bar(levels)
    assert schedule.alpha_bar[t] == same.alpha_bar[1]
    for what in IMAGES:
        result = getattr(machine(name, patterns, schedule), what)(x, t)
        expected = getattr(machine(name, patterns, same), what)(x, 1)
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@patched
def test_sides_belong_to_their_schedule(name):
    cosine = OTHERS["cosine"]
    denoiser = machine(name, uniform(3, 1, 4, 4), cosine, {100: 1, 900: 3})
    log_odds = torch.logit(cosine.alpha_bar)
    for t in range(0, 1000, 20):
        nearer = (log_odds[t] - log_odds[100]).abs() < (log_odds[t] - log_odds[900]).abs()
        assert denoiser.side(cosine.alpha_bar[t].item()) == (1 if nearer else 3)


@every_machine
def test_a_time_without_noise_is_refused(name):
    schedule = Schedule.from_alpha_bar(torch.tensor([1.0, 0.5, 0.1]))
    denoiser, x = machine(name, uniform(3, 1, 4, 4), schedule), normal(1, 1, 4, 4)
    assert denoiser.x_0(x, 1).isfinite().all()
    with pytest.raises(ValueError, match="t: found 0, at which this schedule has no noise"):
        denoiser.x_0(x, 0)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by torch.func.jvp
@every_machine
@pytest.mark.parametrize("what", IMAGES)
@pytest.mark.parametrize("t", [300, torch.tensor([100, 800])])
def test_derivatives(name, what, t):
    """jvp is the slope along v; <u, J v> = <J^T u, v> for every u and v."""
    denoiser = machine(name, uniform(12, 3, 4, 5))
    x, u, v = normal(3, 2, 3, 4, 5, seed=2)

    def answer(x):
        return getattr(denoiser, what)(x, t)

    value, forward = jvp(answer, (x,), (v,))
    torch.testing.assert_close(value, answer(x))
    h = 1e-5
    slope = (answer(x + h * v) - answer(x - h * v)) / (2 * h)
    torch.testing.assert_close(forward, slope, rtol=1e-6, atol=1e-7)
    same, back = vjp(answer, x)
    torch.testing.assert_close(same, value)
    (backward,) = back(u)
    torch.testing.assert_close((u * forward).sum(), (backward * v).sum(), rtol=1e-10, atol=1e-10)
    # And plain autograd.
    own = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((u * answer(own)).sum(), own)
    torch.testing.assert_close(gradient, backward, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated", "ignore:There is a perf")
@every_machine
def test_whole_jacobians(name):
    denoiser, x = machine(name, uniform(8, 1, 3, 4)), normal(1, 1, 3, 4)

    def answer(x):
        return denoiser.x_0(x, 600)

    expected = torch.autograd.functional.jacobian(answer, x)
    for jacobian in (jacfwd, jacrev):
        torch.testing.assert_close(jacobian(answer)(x), expected, rtol=1e-10, atol=1e-12)


@every_machine
def test_second_derivatives(name):
    denoiser, x = machine(name, uniform(8, 1, 3, 4)), normal(1, 1, 3, 4)

    def answer(x):
        return denoiser.x_0(x, 600)

    assert torch.autograd.gradgradcheck(answer, x.requires_grad_(), atol=1e-6, rtol=1e-4)


@every_machine
@pytest.mark.parametrize(
    ("t", "message"),
    [
        (-1, "t: found -1; choose 0 to 999"),
        (1000, "t: found 1000; choose 0 to 999"),
        (torch.tensor([0, 1000]), "t: found 1000; choose 0 to 999"),
        (0.5, "t: found torch.float32"),
        (torch.tensor([1, 2, 3]), r"t: found torch.int64 \[3\]; give an int or int64 \[2\]"),
    ],
)
def test_refuses_other_times(name, t, message):
    denoiser = machine(name, uniform(3, 1, 4, 4))
    with pytest.raises(ValueError, match=message):
        denoiser.x_0(normal(2, 1, 4, 4), t)


@every_machine
def test_refuses_other_images_and_patterns(name):
    with pytest.raises(ValueError, match=r"x_t: found \[2, 1, 4, 3\]; give \[B, 1, 4, 4\]"):
        machine(name, uniform(3, 1, 4, 4)).x_0(normal(2, 1, 4, 3), 5)
    for patterns in (torch.zeros(0, 1, 4, 4), torch.zeros(3, 16), torch.ones(1, 1, 4, 4).int()):
        with pytest.raises(ValueError, match=r"patterns: found .* give \[K, C, H, W\] of floats"):
            machine(name, patterns)


@patched
@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (2, "sides: found 2; give odd numbers, 1 or more"),
        (0, "sides: found 0; give odd numbers, 1 or more"),
        (-1, "sides: found -1; give odd numbers, 1 or more"),
        ({5: 3, 6: 4}, "sides: found 4; give odd numbers, 1 or more"),
        ({}, "sides: found none; give a patch side, or one for each of some t"),
        (None, "sides: found none; {name} needs a patch side"),
        ({-1: 3}, "sides: found t = -1; choose 0 to 999"),
        ({0: 3, 1000: 3}, "sides: found t = 1000; choose 0 to 999"),
    ],
)
def test_refuses_other_sides(name, sides, message):
    with pytest.raises(ValueError, match=message.format(name=name)):
        build_machine(name, uniform(3, 1, 4, 4), SCHEDULE, sides)


def test_refuses_other_names():
    message = "machine: found 'locale'; choose exact, wiener, local, equivariant, pca-local"
    with pytest.raises(ValueError, match=message):
        build_machine("locale", uniform(3, 1, 4, 4), SCHEDULE, 3)


def test_real_data_lie_in_the_range_of_their_pixels():
    patterns = np.clip(uniform(30, 1, 6, 6).numpy(), -0.5, 0.5)
    x = 3 * normal(4, 1, 6, 6)
    for name in ("exact", *PATCHED):
        result = machine(name, torch.from_numpy(patterns)).x_0(x, torch.tensor([0, 10, 300, 999]))
        assert result.abs().max() <= 0.5 + 1e-12


PEAK = """
import torch
from models.machines.build import build_machine
from models.schedule import Schedule

def peak():  # of this process; ru_maxrss would begin with that of the process which started it
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

torch.set_num_threads(1)
small = torch.empty(4_000, 1, 28, 28).uniform_(-1, 1)
large = torch.empty(10_000, 3, 32, 32).uniform_(-1, 1)

def run(patterns, name, side, most_patches=None):
    x = torch.randn(2, *patterns.shape[1:])
    build_machine(name, patterns, Schedule(), side, most_patches).x_0(x, 100)

for name in ("wiener", "pca-local", "local", "equivariant"):  # loads code, allocates its buffers
    run(small[:800], name, 3, 2_000)
before = peak()
assert before > small.nbytes + large.nbytes
for name in ("wiener", "pca-local", "local", "equivariant"):
    run(small, name, 15, 2_000)
    print(peak() - before - small.nbytes)
run(small, "equivariant", 15)
print(peak() - before - small.nbytes)
run(large, "local", 7)
print(peak() - before - large.nbytes)
for side in (5, 27):
    run(large, "equivariant", side, 1_000)
    print(peak() - before - large.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_patterns():
    """4,000 images of 28x28 and 10,000 of 3x32x32, 117 MiB, of which the machines keep a copy.

    The promise is 100 MiB beside that."""
    run = [sys.executable, "-c", PEAK]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(int(rise) < 100 * 2**20 for rise in done.stdout.split()), done.stdout
    assert len(done.stdout.split()) == 8
