"""The circle in the plane: 2 patterns give two wells, 9 also spurious wells, 1000 give a ring.

    python toy_example.py all
    python toy_example.py data --seed 9
    python toy_example.py exact --sample_size 2,9,1000 --beta 20
    python toy_example.py train --sample_size 2,9,1000 --n_iter 50000 --sampling_freq 10000
    python toy_example.py plots --sample_size 9 --t 0.05 --dynamic_threshold
    python toy_example.py basin --sample_size 9 --t 0.05 --delta 0.1

All files are below --results_path: data.npz, figures of several K, and a folder for each K with its
checkpoints, landscapes and basins (docs/formats.md). Each command reads what the ones before it
wrote; run it again to continue."""

from utils.cli.main import run_commands
from utils.cli.options.sections import (
    ToyAllStage,
    ToyBasinStage,
    ToyDataStage,
    ToyExactStage,
    ToyPlotsStage,
    ToyTrainStage,
)


def data(options: ToyDataStage) -> None:
    """Write the data set: 60,000 points of the circle of radius 1; the first K are the subset of K.

    python toy_example.py data --seed 9
    """
    from utils.stages.toy.stage import run_data

    run_data(options)


def exact(options: ToyExactStage) -> None:
    """Draw the analytic energies of K patterns and of infinitely many.

    python toy_example.py exact --sample_size 2,9,1000 --beta 20
    """
    from utils.stages.toy.stage import run_exact

    run_exact(options)


def train(options: ToyTrainStage) -> None:
    """Train score networks on several K together, and compare them with the exact scores.

    python toy_example.py train --sample_size 2,9,1000 --n_iter 50000 --sampling_freq 10000
    """
    from utils.stages.toy.stage import run_train

    run_train(options)


def plots(options: ToyPlotsStage) -> None:
    """Draw learned and exact energies side by side, with score, wells, samples and clusters.

    python toy_example.py plots --sample_size 2,9,1000 --t 0.05 --dynamic_threshold
    """
    from utils.stages.toy.stage import run_plots

    run_plots(options)


def basin(options: ToyBasinStage) -> None:
    """Measure how much noise patterns, spurious states and points of the circle recover from.

    python toy_example.py basin --sample_size 2,9,1000 --t 0.05 --delta 0.1
    """
    from utils.stages.toy.stage import run_basin

    run_basin(options)


def everything(options: ToyAllStage) -> None:
    """Run all commands for several K, and draw them side by side.

    python toy_example.py all
    """
    from utils.stages.toy.stage import run_all

    run_all(options)


COMMANDS = {
    "data": (data, ToyDataStage),
    "exact": (exact, ToyExactStage),
    "train": (train, ToyTrainStage),
    "plots": (plots, ToyPlotsStage),
    "basin": (basin, ToyBasinStage),
    "all": (everything, ToyAllStage),
}

if __name__ == "__main__":
    run_commands(COMMANDS, __doc__)
