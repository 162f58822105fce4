"""Shell commands that make the files of a sweep again, from the options stored in these files.

Paths are those of run_pipeline.py's layout below one root. If the root lacks a folder that a file
was made from, the path stored in the file is used. Commands are for bash; commands that differ only
in K, or only in the class, become one loop."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from utils.cli.options.checks import flag
from utils.cli.options.choices import METRIC_FORMS
from utils.cli.options.metric import stored_name
from utils.cli.options.sections import SECTIONS
from utils.cli.options.training import MachineOptions
from utils.files.provenance import differing

Args = Mapping[str, Any]  # of a file: sections of options
TRAINING = ("data", "train", "model")
# Stages that measure samples under models, by their section of args: the folder of results.
MEASURED_IN = {"critical_times": "times", "energy": "energies", "curvature": "curvature"}
SECOND_INPUTS = {  # of run_generalization.py: option and folder below the root
    "second_synth_path": ("second", "synthetics"),
    "times_path": ("times",),
    "identified_path": ("identified",),
}
# Options that the commands below write themselves: folders and files, a closed form.
WRITTEN = {"results_path", "model_path", "result_path", "ckpt_path", "synth_path", "sample_path"}
WRITTEN |= {"ref_path", *MachineOptions.__dataclass_fields__, "model", *SECOND_INPUTS}
# A metric has one name there, whatever flags it was chosen by.
WRITTEN |= {"metric", "use_lpips", "network", "lpips_weights", "metric_weights"}


def flags_of(section: str, values: Mapping[str, Any], leave_out: Collection[str] = ()) -> list[str]:
    """The flags of these options, as `["--lr", "0.001", "--ema-warmup"]`; defaults are left out."""
    words, known = [], SECTIONS[section].__dataclass_fields__
    for name, value in differing(section, values).items():
        by_itself = name in WRITTEN or (name == "data_path" and section != "data")
        if by_itself or name in leave_out or name not in known or value is None:
            continue
        words.append(flag(name))
        if isinstance(value, list):
            words.append(",".join(map(str, value)))
        elif value is not True:
            words.append(str(value))
    return words


def flag_text(section: str, values: Mapping[str, Any], leave_out: Collection[str] = ()) -> str:
    """`flags_of` as one quoted text."""
    return shlex.join(flags_of(section, values, leave_out))


def config_flag(args: Args) -> str:
    """--config_path with a YAML file in place: a closed form has no flags for its data set."""
    sections = {}
    for name in TRAINING:
        values = differing(name, args[name])
        written = {*WRITTEN, "train_size"}
        sections[name] = {key: value for key, value in values.items() if key not in written}
    return f"--config_path <(echo {shlex.quote(json.dumps(sections))})"


def closed_form_flags(settings: Mapping[str, Any]) -> str:
    """--exact, or --machine with its options; empty for a trained model."""
    if settings.get("exact"):
        return "--exact"
    if not settings.get("machine"):
        return ""
    values = {name: settings.get(name) for name in ("machine", "patch_sides", "most_patches")}
    return shlex.join(
        word for name, x in values.items() if x is not None for word in (flag(name), str(x))
    )


def command(script: str, *parts: str) -> str:
    """A command line; empty parts are left out."""
    return " ".join(part for part in ("python", script, *parts) if part)


def in_loops(variable: str, commands: Mapping[Any, str]) -> str:
    """The commands of these values of a shell variable: one loop for each distinct command.

    A command of a single value needs no loop."""
    values: dict[str, list[str]] = {}
    for value, text in commands.items():
        values.setdefault(text, []).append(str(value))
    lines = []
    for text, names in values.items():
        if len(names) == 1:
            lines.append(text.replace(f"${variable}", names[0]))
        else:
            lines.append(f"for {variable} in {' '.join(names)}; do\n  {text}\ndone")
    return "\n".join(lines)


class Commands:
    """The commands of one root: a method for each stage, from the args of its files.

    Raises KeyError, TypeError or AttributeError if the args lack an option."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, *parts: str, stored: object = None) -> str:
        """A path below the root, quoted; `stored` instead if the root has no such folder."""
        variables = [part for part in parts if "$" in part]  # $K and $CLASS are not quoted
        folder = self.root.joinpath(*(part for part in parts if part not in variables))
        if stored and not folder.exists():
            return shlex.quote(str(stored))
        return "/".join([shlex.quote(str(folder)), *variables])

    def model(self, args: Args, settings: Mapping[str, Any], file: str = "") -> str:
        """The flags of the model: a folder of checkpoints, a file in it, or a closed form."""
        if chosen := closed_form_flags(settings):
            if settings.get("sample_path"):  # the samples' args name the training images
                return f"{chosen} {self.data(args)}".strip()
            return f"{config_flag(args)} {chosen} --train-size $K {self.data(args)}".strip()
        if function := settings.get("model"):
            return f"--model {shlex.quote(function)} --train-size $K {self.training_set(args)}"
        stored = settings["ckpt_path"]
        if stored and file:
            stored = Path(stored).parent
        # One of our files is K.pt; a folder of diffusers does not name its training images.
        drawn_from = args.get("generate", {}).get("ckpt_path")
        ours = drawn_from is None or Path(drawn_from).suffix == ".pt"
        name = file if ours else file.removesuffix(".pt")
        text = "/".join(filter(None, (f"--ckpt-path {self.path('models', stored=stored)}", name)))
        return text if ours else f"{text} {self.training_set(args)}"

    def training_set(self, args: Args) -> str:
        """The flags that name the training images of a model made elsewhere."""
        train = {name: args["train"][name] for name in ("global_seed", "centercrop")}
        data = f"--data-name {args['data']['data_name']} --global-seed {train['global_seed']}"
        crop = " --centercrop" if train["centercrop"] else ""
        return f"{data}{crop} {self.data(args)}".strip()

    def data(self, args: Args) -> str:
        """--data-path, if the data set is not in its default folder."""
        return flag_text("data", {"data_path": args["data"]["data_path"]})

    def training(self, args: Mapping[int, Args]) -> str:
        """args: by K."""

        def one(args: Args) -> str:
            flags = [f for name in TRAINING for f in flags_of(name, args[name], ["train_size"])]
            return command(
                "train_unet.py",
                shlex.join(flags),
                f"--train-size $K --results-path {self.path('training', '$K')}",
                f"--model-path {self.path('models')}",
            )

        return in_loops("K", {k: one(args[k]) for k in sorted(args)})

    def sampling(self, args: Mapping[int, Args]) -> str:
        """args: by K."""

        def one(args: Args) -> str:
            return command(
                "run_generate.py",
                self.model(args, args["generate"], "$K.pt"),
                flag_text("generate", args["generate"]),
                f"--result-path {self.path('generations', '$K')}",
                f"--synth-path {self.path('synthetics')}",
            )

        return in_loops("K", {k: one(args[k]) for k in sorted(args)})

    def distances(self, args: Args) -> str:
        settings = args["distances"]
        flags = [*metric_flags(settings), *flags_of("distances", {"k": settings["k"]})]
        return command(
            "run_distances.py",
            f"--synth-path {self.path('synthetics')}",
            f"--result-path {self.path('dists')}",
            shlex.join(flags),
            self.data(args),
        )

    def classify(self, args: Args, largest: int) -> str:
        """largest: K of the sweep, the default of --pool-size."""
        settings = args["classify"]
        leave_out = ["pool_size"] if settings.get("pool_size") == largest else []
        weights = args["distances"].get("metric_weights")
        return command(
            "run_classify.py",
            f"--dist-path {self.path('dists')}",
            f"--eval-path {self.path('synthetics')} --result-path {self.path('identified')}",
            flag_text("classify", settings, leave_out),
            f"--metric-weights {shlex.quote(weights)}" if weights else "",
            self.data(args),
        )

    def measure(self, section: str, args: Mapping[str, Args]) -> str:
        """The command of a stage in MEASURED_IN. args: of one file of each class."""

        def one(name: str, args: Args) -> str:
            settings, paths, flags = args[section], [], []
            if stored := settings["sample_path"]:
                paths.append(f"--sample-path {self.path('identified', '$CLASS', stored=stored)}")
            folder = MEASURED_IN[section]
            target = self.path(folder, "$CLASS") if name else self.path(folder)
            paths.append(f"--result-path {target}")
            if section == "energy":
                stored = settings["ref_path"]
                paths.append(f"--ref-path {self.path(folder, Path(stored).name, stored=stored)}")
            if section == "curvature" and (stored := settings["times_path"]):
                paths.append(f"--times-path {self.path('times', '$CLASS', stored=stored)}")
            if section == "critical_times":
                flags = metric_flags(settings)
            flags = shlex.join([*flags, *flags_of(section, settings)])
            return command(f"run_{section}.py", self.model(args, settings), *paths, flags)

        return in_loops("CLASS", {name: one(name, args[name]) for name in args})

    def generalization(self, args: Args) -> str:
        """args: of one file. The models of the second subsets exist already."""
        settings = args["generalization"]
        inputs = [
            f"{flag(name)} {self.path(*parts, stored=settings[name])}"
            for name, parts in SECOND_INPUTS.items()
            if settings[name]
        ]
        return command(
            "run_generalization.py",
            closed_form_flags(settings) or self.model(args, settings),
            f"--synth-path {self.path('synthetics', stored=settings['synth_path'])}",
            *inputs,
            f"--result-path {self.path('generalization')}",
            shlex.join([*metric_flags(settings), *flags_of("generalization", settings)]),
            self.data(args),
        )

    def machines(self, args: Args) -> str:
        """args: of one file."""
        settings = args["machines"]
        sets = {"synth_path": "synthetics", "identified_path": "identified"}
        inputs = [
            f"{flag(name)} {self.path(folder, stored=settings[name])}"
            for name, folder in sets.items()
            if settings[name]
        ]
        # Elsewhere this option belongs to the flags of a closed form.
        patches = differing("machines", {"most_patches": settings["most_patches"]})
        return command(
            "run_machines.py",
            self.model(args, settings),
            *inputs,
            f"--result-path {self.path('machines')}",
            flag_text("machines", settings),
            *(f"{flag(name)} {value}" for name, value in patches.items()),
            self.data(args),
        )


def metric_flags(settings: Mapping[str, Any]) -> list[str]:
    """--metric, and where the weights lay that were named. settings: a section of args."""
    name, weights = stored_name(settings), settings.get("metric_weights")
    flags = [] if name == "l2" else ["--metric", name]
    form, _, _ = name.partition(":")
    if METRIC_FORMS.get(form) == "FILE":
        return ["--metric", f"{form}:{weights or 'FILE'}"]
    return [*flags, "--metric-weights", str(weights)] if weights else flags
