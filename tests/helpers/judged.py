"""Judged sets of known classes, and what report.js does with the bins of the report."""

import numpy as np

from utils.cli.options.choices import CLASSES
from utils.stages.classify.files import Judged, JudgedDistances
from utils.stages.classify.held_out import HeldOut
from utils.stages.classify.summary import Judgement, judge_row
from utils.stages.classify.verdicts import States, classify_by_distance


def row_of(k, labels, control=None, criterion="delta", limits=(1.0, 1.0)):
    """The row of summary.csv of labels [N]; control: labels of real images."""
    judgement = Judgement(np.asarray(labels, np.int8), control)
    return judge_row(k, criterion, "l2", {criterion: judgement}, limits, States(0, 0, 0.0), None)


def judged_distances(k, d_train, d_synth, real=None, criterion="delta", limits=(1.0, 1.0)):
    """A judged K of these distances [N] of its samples; real: a HeldOut."""
    near = np.stack([d_train, 4 * np.asarray(d_train)], axis=1).astype(np.float32)
    neighbours = np.asarray(d_synth, np.float32)
    control = None
    if real is not None:
        around, within = real.control
        control = classify_by_distance(around[:, 0], within, *limits)
    labels = classify_by_distance(near[:, 0], neighbours, *limits)
    if real is None:
        real = HeldOut(near[:0], np.empty((0, len(near)), np.float32), 0)
    args = {"classify": {"false_positive_rate": 0.01}, "train": {"train_size": k}}
    row = row_of(k, labels, control, criterion, limits)
    return Judged(row, args, JudgedDistances(near, neighbours, real)), labels


def judged_counts(k, memorized, spurious, n=200, real=None):
    """A judged K with so many memorized and spurious samples of n."""
    i = np.arange(n)
    d_train = np.where(i < memorized, 0.5, 2.0)
    d_synth = np.where((i >= memorized) & (i < memorized + spurious), 0.5, 2.0)
    return judged_distances(k, d_train, d_synth, real)[0]


def real_sets(sets, n, spurious=0):
    """Held-out images in sets of n, at distance 3 of everything but for so many neighbours."""
    within = np.full(sets * n, 3, np.float32)
    within[:spurious] = 0.5
    near = np.full((sets * n, 2), 3, np.float32)
    return HeldOut(near, within.reshape(sets, n), 2)


def shares_at(flat, i, j):
    """(memorized, spurious, generalized): counts for thresholds at edge i of x and edge j of y."""
    x_bin, y_bin, count = np.reshape(flat, (-1, 3)).T
    memorized = x_bin <= i
    spurious = ~memorized & (y_bin <= j)
    return tuple(int(count[part].sum()) for part in (memorized, spurious, ~memorized & ~spurious))


def counts(labels):
    """How many samples there are of each class."""
    return tuple(int((labels == i).sum()) for i in range(len(CLASSES)))
