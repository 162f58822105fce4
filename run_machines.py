"""Measure which denoiser in closed form each network resembles: exact, linear, local, ...

    python run_machines.py --ckpt-path models --result-path machines
    python run_machines.py --ckpt-path models --synth-path synthetics \\
        --identified-path identified --result-path machines
    python run_machines.py --ckpt-path models/128.pt --machines exact,wiener,local \\
        --t 50,200 --result-path machines

For each K and time t: r^2 of the network's x_0 against that of the exact model of its K training
images, of the best linear denoiser, and of denoisers that see patches only, on noised training
images, held-out images and samples; the best mixture of them; and the samples of each beside those
of the network, from the same seeds. Reads models K.pt, the data set, and sets K.npz if there are
any; writes K.json, K.npz and figures into --result-path (docs/machines.md). Run it again to
continue."""

from utils.cli.main import run_stage
from utils.cli.options.sections import MachinesStage


def main(options: MachinesStage) -> None:
    from utils.stages.machines.stage import run

    run(options)


if __name__ == "__main__":
    run_stage(main, MachinesStage, __doc__)
