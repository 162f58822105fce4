"""Find the nearest training images, and the nearest other samples, of each synthetic image.

    python run_distances.py --synth-path synthetics --result-path dists --k 5
    python run_distances.py --synth-path synthetics --result-path dists --metric alex
    python run_distances.py --synth-path synthetics --result-path dists --metric alex --shard 0/8

Without --metric the distance is Euclidean (L2). Reads synthetics/K.npz and the data set that
its args name; writes dists/K.npz (docs/formats.md) and, for networks, the images' embeddings, which
all K, jobs and later stages use. For several jobs: --part divides the K among them, --shard each K
(docs/cluster.md). Run it again to continue."""

from utils.cli.main import run_stage
from utils.cli.options.sections import DistancesStage


def main(options: DistancesStage) -> None:
    from utils.stages.distances.stage import run

    run(options)


if __name__ == "__main__":
    run_stage(main, DistancesStage, __doc__)
