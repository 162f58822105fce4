"""Shell commands that make the files of a sweep again, from the options that these files carry.

Paths are those of run_pipeline.py's layout below one root; where a file says that it was made from
something elsewhere, and the root has no such folder, it is named as the file names it. Commands
are for bash: what differs between the K alone is one loop."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from utils.cli.options.checks import flag
from utils.cli.options.sections import SECTIONS
from utils.files.provenance import differing

Args = Mapping[str, Any]  # of a file: sections of options
TRAINING = {"data": ("results_path",), "train": ("train_size", "model_path"), "model": ()}
PATHS = ("result_path", "ckpt_path", "synth_path", "sample_path", "ref_path", "lpips_weights")
PATHS += ("times_path",)


def flags_of(section: str, values: Mapping[str, Any], without: Collection[str] = ()) -> list[str]:
    """The flags that give these options: `["--lr", "0.001", "--ema-warmup"]`."""
    words, known = [], SECTIONS[section].__dataclass_fields__
    for name, value in differing(section, values).items():
        if name in without or name not in known or value is None:
            continue
        words.append(flag(name))
        if isinstance(value, list):
            words.append(",".join(map(str, value)))
        elif value is not True:
            words.append(str(value))
    return words


def config_of(args: Args) -> str:
    """A YAML file on the command line: what the exact model's data set is has no flags."""
    values = {
        name: {
            key: value
            for key, value in differing(name, args[name]).items()
            if key not in TRAINING[name]
        }
        for name in TRAINING
    }
    return f"--config_path <(echo {shlex.quote(json.dumps(values))})"


def over_k(commands: Mapping[int, str]) -> str:
    """One line for each K, or one loop over the K whose commands are the same but for $K."""
    loops: dict[str, list[int]] = {}
    for k in sorted(commands):
        loops.setdefault(commands[k], []).append(k)
    return "\n".join(
        in_loop("K", list(map(str, sizes)), command) for command, sizes in loops.items()
    )


def in_loop(name: str, values: list[str], command: str) -> str:
    """The command for each value of the shell variable; without a loop where there is one."""
    if len(values) == 1:
        return command.replace(f"${name}", values[0])
    return f"for {name} in {' '.join(values)}; do\n  {command}\ndone"


class Commands:
    """The commands of one root; a method for each stage, from the args of its files by K."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, *parts: str, stored: object = None) -> str:
        """A path below the root, quoted; `stored` where the root has no such folder or file."""
        own = self.root.joinpath(*(part for part in parts if "$" not in part))
        if stored and not own.exists():
            return shlex.quote(str(stored))
        # $K and $CLASS are the shell's, everything else is quoted
        return "/".join(part if "$" in part else shlex.quote(part) for part in self._parts(parts))

    def _parts(self, parts: tuple[str, ...]) -> list[str]:
        fixed = [part for part in parts if "$" not in part]
        return [str(self.root.joinpath(*fixed)), *(part for part in parts if "$" in part)]

    def training(self, args: Mapping[int, Args]) -> str:
        def one(own: Args) -> str:
            words = [w for name in TRAINING for w in flags_of(name, own[name], TRAINING[name])]
            return (
                f"python train_unet.py {shlex.join(words)} --train-size $K"
                f" --results-path {self.path('training', '$K')}"
                f" --model-path {self.path('models')}"
            )

        return over_k({k: one(own) for k, own in args.items()})

    def sampling(self, args: Mapping[int, Args]) -> str:
        def one(own: Args) -> str:
            given = own["generate"]
            words = flags_of("generate", given, (*PATHS, "data_path", "exact"))
            return (
                f"python run_generate.py {self.model(own, given, '$K.pt')} {shlex.join(words)}"
                f" --result-path {self.path('generations', '$K')}"
                f" --synth-path {self.path('synthetics')}"
            )

        return over_k({k: one(own) for k, own in args.items()})

    def model(self, args: Args, given: Mapping[str, Any], name: str = "") -> str:
        """The flags that name the models: a folder, or in it `name`, or the exact model."""
        if given.get("exact"):
            if given.get("sample_path"):  # the samples tell of which images
                return f"--exact {self.data(args)}".strip()
            return f"{config_of(args)} --exact --train-size $K {self.data(args)}".strip()
        stored = given.get("ckpt_path")
        if stored and name:
            stored = Path(stored).parent
        folder = self.path("models", stored=stored)
        return f"--ckpt-path {folder}/{name}" if name else f"--ckpt-path {folder}"

    def data(self, args: Args) -> str:
        """--data-path where the data set does not lie in its usual place."""
        told = args["data"]["data_path"]
        return shlex.join(flags_of("data", {"data_path": told}))

    def distances(self, args: Args) -> str:
        own = args["distances"]
        words = flags_of("distances", {"k": own["k"]})
        if own["metric"] != "l2":
            words = ["--use-lpips", "--network", own["network"], *words]
        return _joined(
            f"python run_distances.py --synth-path {self.path('synthetics')}",
            f"--result-path {self.path('dists')}",
            shlex.join(words),
            self.data(args),
        )

    def classes(self, args: Args, largest: int) -> str:
        """largest: K of the sweep, which is the pool that --criterion calibrated takes."""
        own = dict(args["classify"])
        calibrated = own["criterion"] == "calibrated"
        without = ("delta_m", "delta_s") if calibrated else ()
        if calibrated and own["pool"] != largest:
            own["pool_size"] = own["pool"]
        return _joined(
            f"python run_classify.py --dist-path {self.path('dists')}",
            f"--eval-path {self.path('synthetics')} --result-path {self.path('identified')}",
            shlex.join(flags_of("classify", own, without)),
            self.data(args),
        )

    def critical_times(self, args: Mapping[str, Args]) -> str:
        """args: of one file of each group, by the group's name."""

        def one(group: str, own: Args) -> str:
            given = own["critical_times"]
            without = (*PATHS, "data_path", "exact", *(() if given["use_lpips"] else ("network",)))
            return self._subject("run_critical_times.py", "times", own, given, group) + (
                " " + shlex.join(flags_of("critical_times", given, without))
            )

        return self._over_groups(args, one)

    def energies(self, args: Mapping[str, Args]) -> str:
        """args: of one file of each group, by the group's name."""

        def one(group: str, own: Args) -> str:
            given = own["energy"]
            name = Path(given["ref_path"]).name
            reference = self.path("energies", name, stored=given["ref_path"])
            return _joined(
                self._subject("run_energy.py", "energies", own, given, group),
                f"--ref-path {reference}",
                shlex.join(flags_of("energy", given, (*PATHS, "data_path", "exact"))),
            )

        return self._over_groups(args, one)

    def curvature(self, args: Mapping[str, Args]) -> str:
        """args: of one file of each group, by the group's name."""

        def one(group: str, own: Args) -> str:
            given = own["curvature"]
            times = ""
            if given["times_path"]:
                where = self.path("times", "$CLASS", stored=given["times_path"])
                times = f"--times-path {where}"
            return _joined(
                self._subject("run_curvature.py", "curvature", own, given, group),
                times,
                shlex.join(flags_of("curvature", given, (*PATHS, "data_path", "exact"))),
            )

        return self._over_groups(args, one)

    def generalization(self, args: Args) -> str:
        """args: of one file. The models of the second subsets are trained and sampled before."""
        given = args["generalization"]
        folders = {
            "second_synth_path": ("second", "synthetics"),
            "times_path": ("times",),
            "identified_path": ("identified",),
        }
        beside = [
            f"{flag(name)} {self.path(*parts, stored=given[name])}"
            for name, parts in folders.items()
            if given[name]
        ]
        without = (*PATHS, *folders, "data_path", "exact")
        without = (*without, *(() if given["use_lpips"] else ("network",)))
        models = "--exact" if given["exact"] else self.model(args, given)
        return _joined(
            f"python run_generalization.py {models}",
            f"--synth-path {self.path('synthetics', stored=given['synth_path'])}",
            *beside,
            f"--result-path {self.path('generalization')}",
            shlex.join(flags_of("generalization", given, without)),
            self.data(args),
        )

    def _subject(
        self, script: str, results: str, args: Args, given: Mapping[str, Any], group: str
    ) -> str:
        samples = ""
        if given["sample_path"]:
            where = self.path("identified", "$CLASS", stored=given["sample_path"])
            samples = f"--sample-path {where}"
        target = self.path(results, "$CLASS") if group else self.path(results)
        return _joined(
            f"python {script} {self.model(args, given)}", samples, f"--result-path {target}"
        )

    def _over_groups(self, args: Mapping[str, Args], one: Any) -> str:
        loops: dict[str, list[str]] = {}
        for group, own in args.items():
            loops.setdefault(one(group, own), []).append(group)
        return "\n".join(in_loop("CLASS", groups, text) for text, groups in loops.items())


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)
