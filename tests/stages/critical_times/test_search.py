"""Searches: the trials that they request, their answers, and bisection against the scan."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.stages.critical_times.search import Rule, bisect, scan, scan_image

TIMES = tuple(range(1, 1000, 25))


def run(search, recovers):
    """The answer, and every (t, trial) that was asked, where recovers(t, trial) answers."""
    asked, pairs = [], next(search)
    while True:
        asked += pairs
        try:
            pairs = search.send([bool(recovers(*pair)) for pair in pairs])
        except StopIteration as ended:
            return ended.value, asked


def table(seed, steep=0.1, trials=10, times=TIMES):
    """Recovery at random: likely early, unlikely late, not monotone."""
    rng = np.random.default_rng(seed)
    middle = rng.uniform(-3, len(times) + 3)
    chance = 1 / (1 + np.exp((np.arange(len(times)) - middle) * steep))
    return rng.random((len(times), trials)) < chance[:, None]


def by_table(result, times=TIMES):
    return lambda t, trial: result[times.index(t), trial]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1.0])
def test_the_scan_is_the_definition(seed, p):
    """t_c: the last t before the image stops. time: the last t of an unbroken record."""
    result = table(seed)
    answer, asked = run(scan(Rule(TIMES, 10, p)), by_table(result))
    lives = result.sum(1) >= np.ceil(10 * p - 1e-9)
    count = len(lives) if lives.all() else int(np.argmin(lives))  # times before the first failure
    assert answer.critical_time == (TIMES[count - 1] if count else 0)
    assert answer.censored == (count == len(TIMES))
    for trial in range(10):
        unbroken = int(np.argmin(np.append(result[:, trial], False)))
        assert answer.time[trial] == (TIMES[unbroken - 1] if unbroken else 0)
    tried = min(count + 1, len(TIMES))
    np.testing.assert_allclose(answer.recovery[:tried], result[:tried].mean(1), rtol=1e-6)
    assert np.isnan(answer.recovery[tried:]).all()
    # Nothing is asked twice, and nothing of a trial that has failed after the image stopped.
    assert len(set(asked)) == len(asked)
    after = [(t, trial) for t, trial in asked if TIMES.index(t) >= tried]
    assert all(result[: TIMES.index(t), trial].all() for t, trial in after)


@pytest.mark.parametrize("seed", range(30))
def test_without_trial_times_the_image_has_the_same_answer_for_less(seed):
    rule = Rule(TIMES, 10, 0.9)
    whole, asked = run(scan(rule), by_table(table(seed)))
    image, fewer = run(scan_image(rule), by_table(table(seed)))
    assert (image.critical_time, image.censored) == (whole.critical_time, whole.censored)
    assert set(fewer) <= set(asked)
    assert (image.time == -1).all()
    known = ~np.isnan(image.recovery)
    assert np.array_equal(image.recovery[known], whole.recovery[known])


def test_a_time_is_left_as_soon_as_its_rule_is_decided():
    rule = Rule(TIMES, 10, 0.9)
    _, asked = run(scan_image(rule), lambda t, trial: t == 1)
    assert asked.count((1, 9)) == 0 and len([t for t, _ in asked if t == 1]) == 9
    assert [pair for pair in asked if pair[0] == 26] == [(26, 0), (26, 1)]  # two failures end it


@given(
    count=st.integers(0, 40),
    times=st.integers(1, 40),
    p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    trials=st.integers(1, 12),
)
@settings(max_examples=300, deadline=None)
def test_bisection_is_the_scan_where_recovery_is_monotone(count, times, p, trials):
    rule = Rule(TIMES[:times], trials, p)
    end = TIMES[count - 1] if count else 0

    def recovers(t, trial):
        return t <= end

    result, _ = run(bisect(rule), recovers)
    expected, _ = run(scan(rule), recovers)
    assert (result.critical_time, result.censored) == (expected.critical_time, expected.censored)
    assert not result.non_monotone


@pytest.mark.parametrize("seed", range(200))
def test_bisection_says_where_it_saw_recovery_return(seed):
    """Its answer is a time at which the image lives, with a failure or the end right above."""
    result = table(seed, steep=0.25)
    rule = Rule(TIMES, 10, 0.5)
    lives = result.sum(1) >= 5
    answer, asked = run(bisect(rule), by_table(result))
    i = TIMES.index(answer.critical_time) if answer.critical_time else -1
    assert i < 0 or lives[i]
    assert i == len(TIMES) - 1 or not lives[i + 1]
    assert i < 1 or lives[i - 1]  # the neighbour below was checked
    seen = sorted({TIMES.index(t) for t, _ in asked})
    returns = any(lives[b] and not lives[a] for a, b in zip(seen, seen[1:], strict=False))
    assert answer.non_monotone == returns
    if not returns and answer.critical_time != run(scan(rule), by_table(result))[0].critical_time:
        assert not (np.diff(lives.astype(int)) <= 0).all()  # only a hidden return explains it


def test_bisection_asks_for_few_times():
    for count in range(41):
        end = TIMES[count - 1] if count else 0
        _, asked = run(bisect(Rule(TIMES, 10, 0.9)), lambda t, trial, end=end: t <= end)
        assert len({t for t, _ in asked}) <= 10


@pytest.mark.parametrize(("trials", "p", "need"), [(10, 0.9, 9), (10, 0.91, 10), (3, 0.01, 1)])
def test_need(trials, p, need):
    assert Rule((1,), trials, p).need == need


@pytest.mark.parametrize("rule", [((), 10, 0.9), ((1,), 0, 0.9), ((1,), 5, 0.0), ((1,), 5, 1.1)])
def test_an_impossible_rule_is_refused(rule):
    with pytest.raises(ValueError, match="rule: found"):
        Rule(*rule)
