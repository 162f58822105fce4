"""Every command of README.md, in its order and in one folder, on tiny settings; its table and links.

Commands run in this process: a new one takes three seconds for its imports alone. What starts other
processes (torchrun, sbatch, make) is asked for the command that it would start, and that runs here;
the launchers themselves are tested in test_ranks.py and test_cluster.py."""

from __future__ import annotations

import io
import os
import re
import runpy
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import yaml
from torch.distributed.run import get_args_parser

from tests.test_original_files import PARSE_UTILS
from tests.tiny import ROOT
from utils import interrupts, toy_analysis
from utils.checkpoints import build_network
from utils.datasets import digit_values

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()

# What the options that a command does not give are here; a flag beats it, so see FLAGS.
TINY = """
run: {device: cpu}
train:
  {iterations: 40, global_batch_size: 16, lr: 2.0e-3, ema_decay: 0.9, timesteps: 30, valid_size: 8,
   log_every: 20, ckpt_every: 20, num_workers: 0}
model: {dim: 32, dim_mults: [1], attn_resolutions: [4], num_res_blocks: 1, dropout: 0}
generate: {steps: 6}
# So few steps memorize nothing: every sample as near as almost all real images are must do, or no
# class but the last would have a file for the stages that follow.
classify: {false_positive_rate: 0.9, top_size: 4, least_size: 2, k: 2}
critical_times: {sample_size: 2, p_trials: 2, ddim_steps: 2, stride: 10}
energy: {sample_size: 4, path_points: 4}
pipeline: {sizes: [2, 8], samples: 24, jobs: 1}
toy_all: {n_iter: 60}
toy_train: {global_batch_size: 16}
toy_plots: {samples: 40}
toy_basin: {points: 2, p_trials: 4}
"""
SIZES = (2, 8)
FLAGS = {  # flags whose numbers are replaced, and why
    "--iterations": ("40", "training"),
    "--dim": ("32", "the narrowest network that there is"),
    "--samples": ("24", "each is drawn, compared and drawn again in figures"),
    "--num-samples": ("24", "as --samples"),
    "--sizes": ("2,8", "a training for each; the data sets are small"),
    "--jobs": ("1", "others would be new processes"),
    "--n-iter": ("60", "training of the circle"),
    "--sampling-freq": ("20", "so that there are several checkpoints of so few steps"),
}
