"""Every option of every stage, as flags and as YAML keys; the comment after a field is its help
(where that lists names it is made from `choices.py`).

Nothing heavy is imported here, so that `--help` answers at once. `__post_init__` only checks:
simple-parsing calls it twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.cli.options.checks import all_within, ints, one_of, told, within
from utils.cli.options.choices import DATA_NAMES, METRIC_NAMES, NOT_L2, SAMPLER_NAMES, either
from utils.cli.options.measures import (
    CriticalTimesOptions,
    CurvatureOptions,
    EnergyOptions,
    GeneralizationOptions,
)
from utils.cli.options.toy import (
    ToyAllOptions,
    ToyBasinOptions,
    ToyDataOptions,
    ToyExactOptions,
    ToyPlotsOptions,
    ToyTrainOptions,
)
from utils.jobs.memory import parse_memory
from utils.jobs.shares import parse_share

# Far beyond any network that is trained: building one of a billion blocks would never end.
MOST_BLOCKS, MOST_CHANNELS = 1000, 2**20
MOST_LEVELS = 13  # the last one has a single pixel, of 4096


@dataclass
class RunOptions:
    """How to run; nothing here changes what is computed beyond rounding."""

    device: str = "auto"  # auto (the best one here), cpu, cuda, cuda:N or mps
    precision: str = "auto"  # auto, float32 or bfloat16 (auto: where hardware multiplies it)
    deterministic: bool = False  # CUDA: bit-equal reruns, slower (a CPU always is)
    dry_run: bool = False  # print the plan, write nothing
    overwrite: bool = False  # redo finished files

    def __post_init__(self) -> None:
        one_of(self, "precision", ("auto", "float32", "bfloat16"))
        kind, _, index = str(self.device).partition(":")
        if kind not in ("auto", "cpu", "cuda", "mps") or (
            index and not (index.isdecimal() and kind == "cuda")
        ):
            raise UserError("--device", self.device, "choose auto, cpu, cuda, cuda:N or mps")


@dataclass
class DataOptions:
    """Data set and result folder."""

    data_path: Path = Path("../data")  # folder of the data sets
    results_path: Path = Path("results")  # folder for checkpoints, samples and logs
    data_name: str = told("cifar10", f"{either(DATA_NAMES)} (any images)")

    def __post_init__(self) -> None:
        one_of(self, "data_name", DATA_NAMES)


@dataclass
class TrainOptions:
    """Training; K is --train-size."""

    global_batch_size: int = 128  # images a step, over all ranks
    iterations: int = 400_000  # steps
    num_workers: int = 4  # accepted for old commands: the subset lies in memory
    log_every: int = 500  # steps between log lines
    ckpt_every: int = 500  # steps between checkpoints
    train_size: int = 1000  # K, training images
    valid_size: int = 1000  # images held out for the validation loss
    global_seed: int = 3407  # seed of the split, the first weights and every step
    lr: float = 1e-4  # Adam's step size
    ema_decay: float = 0.9999  # decay of the averaged weights, 0 to 1
    ema_warmup: bool = False  # average with min(decay, (1 + n) / (10 + n)) at step n
    clip_grad: bool = True  # clip the gradient's norm at 1
    prediction_type: str = "epsilon"  # what the network predicts: epsilon or sample (x_0)
    beta_schedule: str = "linear"  # linear
    timesteps: int = 1000  # T, noise levels
    centercrop: bool = False  # cut the middle square at the image size (ADM's crop)
    subset: str = "first"  # first (perm[:K]) or second (the disjoint perm[K:2K])
    keep_checkpoints: int = 0  # newest checkpoints to keep; 0 keeps all
    model_path: Path | None = None  # folder for the finished model, K.pt
    compile: str = "auto"  # torch.compile: auto (on CUDA), on, off

    def __post_init__(self) -> None:
        for name in ("global_batch_size", "iterations", "log_every", "ckpt_every", "train_size"):
            within(self, name, 1)
        for name in ("num_workers", "valid_size", "keep_checkpoints"):
            within(self, name, 0)
        within(self, "global_seed", 0, 2**63 - 1)
        within(self, "ema_decay", 0, 1)
        within(self, "timesteps", 2, 100_000)
        if not 0 < self.lr < float("inf"):
            raise UserError("--lr", self.lr, "choose a positive number")
        one_of(self, "prediction_type", ("epsilon", "sample"))
        one_of(self, "beta_schedule", ("linear",))
        one_of(self, "subset", ("first", "second"))
        one_of(self, "compile", ("auto", "on", "off"))


@dataclass
class ModelOptions:
    """The U-Net."""

    image_size: int = 32  # side in pixels
    in_channels: int = 3  # 1 (grey) or 3 (colour)
    dim: int = 128  # channels of the first level, a multiple of 32
    dim_mults: tuple[int, ...] = ints(1, 2, 2, 2)  # channels of each level, as multiples of dim
    attn_resolutions: tuple[int, ...] = ints(16)  # sides (pixels) that get self-attention
    num_res_blocks: int = 2  # residual blocks a level
    dropout: float = 0.0  # share of activations dropped in training, 0 to 1
    conditional: bool = True  # tell the network the time
    resamp_with_conv: bool = True  # convolutions in down- and upsampling
    nonlinearity: str = "swish"  # swish, relu, lrelu or elu
    scale_by_sigma: bool = False  # divide the output by the noise's standard deviation

    def __post_init__(self) -> None:
        within(self, "image_size", 1, 4096)
        one_of(self, "in_channels", (1, 3))
        within(self, "num_res_blocks", 1, MOST_BLOCKS)
        all_within(self, "attn_resolutions", 1)
        within(self, "dropout", 0, 1)
        one_of(self, "nonlinearity", ("swish", "relu", "lrelu", "elu"))
        if not 32 <= self.dim <= MOST_CHANNELS or self.dim % 32:
            remedy = f"choose a multiple of 32 (group norm), up to {MOST_CHANNELS}"
            raise UserError("--dim", self.dim, remedy)
        if not self.dim_mults or min(self.dim_mults) < 1 or max(self.dim_mults) > MOST_CHANNELS:
            raise UserError("--dim-mults", self.dim_mults, "choose positive numbers, as in 1,2,2")
        if len(self.dim_mults) > MOST_LEVELS:
            raise UserError("--dim-mults", self.dim_mults, f"choose {MOST_LEVELS} levels or fewer")
        step = 2 ** (len(self.dim_mults) - 1)
        if self.image_size % step:
            remedy = f"choose a multiple of {step}, or fewer levels in --dim-mults"
            raise UserError("--image-size", self.image_size, remedy)


@dataclass
class GenerateOptions:
    """Sampling: image i is drawn from seed + i."""

    result_path: Path | None = None  # folder for the shards
    ckpt_path: Path | None = None  # trained model, K.pt
    synth_path: Path | None = None  # folder for the merged set, K.npz
    batch_size: int = 512  # images at once and in a file; changes images by rounding only
    num_files: int = 10_000  # files to write, of --batch-size images
    num_samples: int | None = None  # images to draw, instead of --num-files
    seed: int = 3407  # image i is drawn from seed + i
    sampler: str = told("ddpm", ", ".join(f"{n} ({s.told})" for n, s in SAMPLER_NAMES.items()))
    steps: int | None = told(
        None,
        "network calls an image; default "
        + ", ".join(f"{s.calls or 'all timesteps'} for {n}" for n, s in SAMPLER_NAMES.items()),
    )
    exact: bool = False  # the exact model of the K training images instead of a checkpoint
    train_size: int | None = None  # with --exact: K
    data_path: Path | None = None  # with --exact: folder of the data sets
    compile: str = "auto"  # torch.compile: auto (on CUDA), on, off

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_files", "num_samples", "steps", "train_size"):
            within(self, name, 1)
        within(self, "seed", 0, 2**62)
        one_of(self, "sampler", SAMPLER_NAMES)
        one_of(self, "compile", ("auto", "on", "off"))


@dataclass
class SliceOptions:
    """Which of the K-named files, sorted by K."""

    start_idx: int = 0  # first file of the slice
    final_idx: int = -1  # end of the slice, exclusive; -1 is the end
    # job i of n (0 .. n - 1): its share of that slice, weighed so that all jobs take about as long
    part: str | None = None

    def __post_init__(self) -> None:
        parse_share(self.part, "--part")
        within(self, "start_idx", 0)
        within(self, "final_idx", -1)
        if 0 <= self.final_idx < self.start_idx:
            remedy = f"choose {self.start_idx} (--start-idx) or more, or -1 for the end"
            raise UserError("--final-idx", self.final_idx, remedy)


@dataclass
class DistancesOptions:
    """Nearest training and synthetic neighbours of each sample."""

    result_path: Path | None = None  # folder for the distances, K.npz
    synth_path: Path | None = None  # folder of synthetic sets, K.npz
    data_path: Path | None = None  # folder of the data sets; default: where the model found it
    use_lpips: bool = False  # LPIPS; without it the Euclidean distance (L2)
    network: str = "alex"  # of LPIPS: alex, vgg or squeeze
    lpips_weights: Path | None = None  # folder of the backbone files, when they lie elsewhere
    k: int = 5  # neighbours to keep
    eval_batch_size: int = 256  # samples embedded at once
    ref_batch_size: int | None = None  # training images embedded at once; default as samples
    memory: str | None = None  # memory to stay below, as 4G or 500M; default half of what is free
    shard: str | None = None  # job i of n (0 .. n - 1): its part of each K; the last one merges

    def __post_init__(self) -> None:
        parse_share(self.shard, "--shard")
        parse_memory(self.memory)
        one_of(self, "network", NOT_L2)
        for name in ("k", "eval_batch_size", "ref_batch_size"):
            within(self, name, 1)


@dataclass
class CacheOptions:
    """LPIPS embeddings on disk: each image passes through the network once, for all K and jobs."""

    cache_path: Path | None = None  # folder of the embeddings; default: beside --result-path
    no_cache: bool = False  # keep no embeddings; images pass through the network again


@dataclass
class ClassifyOptions:
    """Memorized, spurious or generalized, by distance."""

    result_path: Path | None = None  # folder for the classes and summary.csv
    dist_path: Path | None = None  # folder of distances, K.npz
    eval_path: Path | None = None  # folder of the sets that were judged, K.npz
    synth_path: Path | None = None  # folder of their synthetic neighbours; default --eval-path
    data_path: Path | None = None  # folder of the data sets; default: where the model found it
    criterion: str = "delta"  # delta (the two flags below), calibrated, ratio (d_1 / d_2 < 1/3)
    delta_m: float = 0.33  # memorized up to this distance to a training image
    delta_s: float = 0.33  # else spurious up to this distance to another sample
    false_positive_rate: float = 0.01  # of calibrated: share of real images misjudged, 0 to 1
    pool_size: int | None = None  # of calibrated: P, real images taken as known; default largest K
    k: int = 5  # neighbours to store beside each sample
    top_size: int = 256  # most typical samples to store
    least_size: int = 64  # least typical samples to store
    lpips_weights: Path | None = None  # folder of the backbone files, when they lie elsewhere
    eval_batch_size: int = 256  # of calibrated: images embedded at once

    def __post_init__(self) -> None:
        one_of(self, "criterion", ("delta", "calibrated", "ratio"))
        within(self, "delta_m", 0)
        within(self, "delta_s", 0)
        for name in ("pool_size", "k", "eval_batch_size"):
            within(self, name, 1)
        within(self, "top_size", 0)
        within(self, "least_size", 0)
        if not 0 < self.false_positive_rate < 1:
            remedy = "choose a share between 0 and 1, as 0.01"
            raise UserError("--false-positive-rate", self.false_positive_rate, remedy)


@dataclass
class PipelineOptions:
    """Every stage for every K."""

    root: Path = Path("results")  # folder for everything that the pipeline writes
    sizes: tuple[int, ...] = ints()  # training-set sizes K, as in 2,64,1500
    samples: int = 256  # images to draw and judge for each K
    metric: str = told("l2", f"{either(METRIC_NAMES)} (the last three: LPIPS)")
    lpips_weights: Path | None = None  # folder of the backbone files, when they lie elsewhere
    criterion: str = "calibrated"  # calibrated, delta or ratio
    jobs: int = 1  # processes side by side, each with its K or class
    basins: bool = True  # also critical times and energies of each class
    curvature: bool = False  # also the curvature of the energy around each class
    generalization: bool = False  # also tests of generalization; trains second models for them
    models: Path | None = None  # folder of trained models, K.pt, instead of training

    def __post_init__(self) -> None:
        for name in ("samples", "jobs"):
            within(self, name, 1)
        all_within(self, "sizes", 1)
        if len(set(self.sizes)) != len(self.sizes):
            raise UserError("--sizes", self.sizes, "name each K once")
        one_of(self, "metric", METRIC_NAMES)
        one_of(self, "criterion", ("calibrated", "delta", "ratio"))


@dataclass
class ReportOptions:
    """A sweep as one page."""

    root: Path = Path("results")  # folder that run_pipeline.py wrote; may come first
    result_path: Path | None = None  # the page; default report.html in --root


@dataclass
class DescribeOptions:
    """A file to look into."""

    path: Path | None = None  # a .pt or .npz of these stages or of the original; may come first
    grid: Path | None = None  # a picture of its first 64 images, .png


@dataclass
class ToDiffusersOptions:
    """A checkpoint for diffusers."""

    ckpt_path: Path | None = None  # trained model, K.pt
    result_path: Path | None = None  # folder that DDPMPipeline.from_pretrained will load
    dry_run: bool = False  # print what would be written, write nothing
    overwrite: bool = False  # write over another model


def metric_name(given: DistancesOptions | CriticalTimesOptions | GeneralizationOptions) -> str:
    """What --use-lpips and --network ask for: a name in METRIC_NAMES."""
    return given.network if given.use_lpips else "l2"


def from_yaml_only() -> Any:
    """A section that a stage reads from the YAML file and does not offer as flags."""
    return field(metadata={"flags": False})


@dataclass
class TrainStage:
    data: DataOptions
    train: TrainOptions
    model: ModelOptions
    run: RunOptions


@dataclass
class GenerateStage:
    generate: GenerateOptions
    run: RunOptions
    data: DataOptions = from_yaml_only()
    train: TrainOptions = from_yaml_only()
    model: ModelOptions = from_yaml_only()


@dataclass
class DistancesStage:
    distances: DistancesOptions
    cache: CacheOptions
    slice: SliceOptions
    run: RunOptions


@dataclass
class ClassifyStage:
    classify: ClassifyOptions
    cache: CacheOptions
    slice: SliceOptions
    run: RunOptions


@dataclass
class CriticalTimesStage:
    critical_times: CriticalTimesOptions
    slice: SliceOptions
    run: RunOptions
    data: DataOptions = from_yaml_only()
    train: TrainOptions = from_yaml_only()
    model: ModelOptions = from_yaml_only()


@dataclass
class EnergyStage:
    energy: EnergyOptions
    slice: SliceOptions
    run: RunOptions
    data: DataOptions = from_yaml_only()
    train: TrainOptions = from_yaml_only()
    model: ModelOptions = from_yaml_only()


@dataclass
class CurvatureStage:
    curvature: CurvatureOptions
    slice: SliceOptions
    run: RunOptions
    data: DataOptions = from_yaml_only()
    train: TrainOptions = from_yaml_only()
    model: ModelOptions = from_yaml_only()


@dataclass
class GeneralizationStage:
    generalization: GeneralizationOptions
    cache: CacheOptions
    slice: SliceOptions
    run: RunOptions


@dataclass
class PipelineStage:
    pipeline: PipelineOptions
    data: DataOptions
    train: TrainOptions
    model: ModelOptions
    cache: CacheOptions
    run: RunOptions
    generate: GenerateOptions = from_yaml_only()
    distances: DistancesOptions = from_yaml_only()
    classify: ClassifyOptions = from_yaml_only()
    critical_times: CriticalTimesOptions = from_yaml_only()
    energy: EnergyOptions = from_yaml_only()
    curvature: CurvatureOptions = from_yaml_only()
    generalization: GeneralizationOptions = from_yaml_only()


@dataclass
class DescribeStage:
    describe: DescribeOptions


@dataclass
class ReportStage:
    report: ReportOptions


@dataclass
class ToDiffusersStage:
    to_diffusers: ToDiffusersOptions


@dataclass
class ToyDataStage:
    toy_data: ToyDataOptions
    run: RunOptions


@dataclass
class ToyExactStage:
    toy_exact: ToyExactOptions
    run: RunOptions


@dataclass
class ToyTrainStage:
    toy_train: ToyTrainOptions
    run: RunOptions


@dataclass
class ToyPlotsStage:
    toy_plots: ToyPlotsOptions
    run: RunOptions


@dataclass
class ToyBasinStage:
    toy_basin: ToyBasinOptions
    run: RunOptions


@dataclass
class ToyAllStage:
    toy_all: ToyAllOptions
    run: RunOptions


# The sections of a YAML file. One file serves every stage, so each stage knows all of them.
SECTIONS = {
    "run": RunOptions,
    "data": DataOptions,
    "train": TrainOptions,
    "model": ModelOptions,
    "generate": GenerateOptions,
    "slice": SliceOptions,
    "distances": DistancesOptions,
    "cache": CacheOptions,
    "classify": ClassifyOptions,
    "critical_times": CriticalTimesOptions,
    "energy": EnergyOptions,
    "curvature": CurvatureOptions,
    "generalization": GeneralizationOptions,
    "pipeline": PipelineOptions,
    "report": ReportOptions,
    "describe": DescribeOptions,
    "to_diffusers": ToDiffusersOptions,
    "toy_data": ToyDataOptions,
    "toy_exact": ToyExactOptions,
    "toy_train": ToyTrainOptions,
    "toy_plots": ToyPlotsOptions,
    "toy_basin": ToyBasinOptions,
    "toy_all": ToyAllOptions,
}


def known_only(options_class: type, values: dict) -> dict:
    """The entries of values that options_class has; what another version added is left out."""
    names = options_class.__dataclass_fields__
    return {name: value for name, value in values.items() if name in names}
