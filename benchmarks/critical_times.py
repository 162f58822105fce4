"""Critical times: our searches against the published scan, on the demo's model of K = 16.

    make demo && python -m benchmarks.critical_times

The baseline is our implementation of the published protocol: all images and trials of a batch are
noised and denoised at each time, until no image of the batch recovers. Measured are network
evaluations (rows of a batch that hold a noised copy, including speculative trials in rows that
would be empty) and seconds, with one thread. 32 memorized samples and all spurious ones, 10 trials,
stride 25, delta 1.0 in L2."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.ratio import print_result
from models.denoiser import Denoiser
from models.noise import image_key
from models.samplers import ddim_step, recovery_times
from utils.cli.errors import UserError
from utils.descriptors.embedders import load_metric
from utils.inputs.denoisers import trained_model
from utils.inputs.samples import load_samples
from utils.stages.critical_times.follow import Judge, follow, noised_copy
from utils.stages.critical_times.pool import RecoveryPool
from utils.stages.critical_times.search import Answer, Rule, bisect, scan, scan_image

ROOT, K, MEMORIZED = Path("results/digits"), 16, 32
SEARCHES = {"scan": scan, "scan, no trial times": scan_image, "bisect": bisect}
DELTA, SEED, STEPS, BATCH = 1.0, 3407, 20, 64
RULE = Rule(tuple(range(1, 1000, 25)), 10, 0.9)


@torch.no_grad()
def published_scan(denoiser: Denoiser, images: Tensor, batch: int) -> tuple[np.ndarray, int]:
    """Critical times [n] by the p rule, and the number of network evaluations.

    Every image and trial is tried until the last image of the batch fails. Uses the same noise as
    our searches, so that results can be compared; batches of `batch` images."""
    critical_times, evaluations = [], 0
    for part in images.split(batch):
        keys = [image_key(image) for image in part]
        t_c, lives = np.zeros(len(part), int), np.ones(len(part), bool)
        for t in RULE.times:
            recovered = np.zeros(len(part), int)
            for trial in range(RULE.trials):
                copies = [
                    noised_copy(i, image, key, SEED, t, trial)
                    for i, (image, key) in enumerate(zip(part, keys, strict=True))
                ]
                x = torch.stack([copy.noised(denoiser) for copy in copies])
                calls = list(recovery_times(t, STEPS))
                for now, later in zip(calls, [*calls[1:], None], strict=True):
                    x_0 = denoiser.x_0(x, now)
                    evaluations += len(part)
                    if later is not None:
                        x = ddim_step(x, x_0, *denoiser.schedule.alpha_bar_at([now, later]))
                distance = (x_0.clamp(-1, 1) - part).flatten(1).norm(dim=1)
                recovered += (distance <= DELTA).numpy()
            lives_now = recovered >= RULE.need
            t_c[lives & lives_now] = t
            lives &= lives_now
            if not lives_now.any():  # only then the batch stops
                break
        critical_times.append(t_c)
    return np.concatenate(critical_times), evaluations


def ours(denoiser: Denoiser, images: Tensor, search) -> tuple[dict[int, Answer], RecoveryPool]:
    pool = RecoveryPool(denoiser, BATCH, STEPS)
    judge = Judge(load_metric("l2", None, "cpu"))
    return dict(follow(images, RULE, search, pool, judge, DELTA, SEED)), pool


def load(name: str) -> np.ndarray:
    path = ROOT / "identified" / name / f"{K}.npz"
    if not path.exists():
        raise UserError(path, "no such file", "run make demo first")
    samples, sizes = load_samples(path)
    return samples.samples[: sizes[0]]


def main() -> None:
    torch.set_num_threads(1)
    images = np.concatenate([load("memorized")[:MEMORIZED], load("spurious")])
    images = torch.from_numpy(images)
    denoiser = trained_model(ROOT / "models" / f"{K}.pt").denoiser(torch.device("cpu"), "auto")
    for name, search in SEARCHES.items():
        start = time.perf_counter()
        published, most = published_scan(denoiser, images, len(images))
        baseline = time.perf_counter() - start
        start = time.perf_counter()
        answers, pool = ours(denoiser, images, search)
        candidate = time.perf_counter() - start
        t_c = np.array([answers[i].critical_time for i in range(len(images))])
        print_result(
            f"critical times: {name}",
            evaluations=round(pool.evaluations / most, 3),
            ratio=round(baseline / candidate, 2),
            baseline_seconds=round(baseline, 2),
            candidate_seconds=round(candidate, 2),
            images=len(images),
            agree=int((t_c == published).sum()),
            not_monotone=sum(a.non_monotone for a in answers.values()),
        )


if __name__ == "__main__":
    main()
