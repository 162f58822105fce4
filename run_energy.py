"""Measure relative energies: how deep samples lie in the energy landscape of their model.

    python run_energy.py --ckpt-path models --sample-path identified/memorized \\
        --ref-path reference/image.npz --result-path energies/memorized
    python run_energy.py --ckpt-path models --ref-path reference/image.npz --t 50 \\
        --path-points 40 --result-path energies/training
    python run_energy.py --exact --sample-path identified/spurious \\
        --ref-path reference/image.npz --result-path exact-energies/spurious

The energy of a reference minus that of the sample, integrated along a path between them: positive
where the sample lies deeper. Reads models K.pt, samples K.npz (without --sample-path the training
images) and references (a .npz with `samples`); writes K.npz into --result-path and a figure beside
it (docs/formats.md). Run it again to continue."""

from utils.cli.main import run_stage
from utils.cli.options.sections import EnergyStage


def main(options: EnergyStage) -> None:
    from utils.stages.energy.stage import run

    run(options)


if __name__ == "__main__":
    run_stage(main, EnergyStage, __doc__)
