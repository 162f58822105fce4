"""Models, samples and data sets on the Hugging Face Hub: hf://OWNER/NAME in place of a path."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.cli.options.checks import flag

# Options that name what is read. A Path writes hf:// with one slash.
INPUTS = {
    *("ckpt_path", "models", "synth_path", "sample_path", "eval_path", "second_synth_path"),
    *("data_path", "ref_path", "samples", "train", "held_out"),
}
WRITTEN = {"generate": {"synth_path"}}  # by section: what is an output there
ADDRESS = re.compile(r"hf:/{1,2}(datasets/)?([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+?))?/?")


def fetched(options: Any) -> Any:
    """The options of a stage with hf:// addresses replaced by where huggingface_hub has put their
    content. Raises UserError as `fetch` does."""
    changed = {}
    for field in dataclasses.fields(options):
        section = getattr(options, field.name)
        names = INPUTS - WRITTEN.get(field.name, set())
        here = [name for name in names if is_address(getattr(section, name, None))]
        if here:
            values = {name: getattr(section, name) for name in here}
            local = {name: type(x)(fetch(str(x), flag(name))) for name, x in values.items()}
            changed[field.name] = dataclasses.replace(section, **local)
    return dataclasses.replace(options, **changed) if changed else options


def is_address(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike)) and str(value).startswith("hf:/")


def fetch(address: str, where: str) -> str:
    """The path, in the cache of huggingface_hub, of hf://[datasets/]OWNER/NAME[@REVISION][/FILE].

    A folder of a repository may stand in place of FILE. Raises UserError (naming the flag where)
    for other addresses, without the package, and where the Hub does not give it."""
    parts = ADDRESS.fullmatch(address)
    shown = address if address.startswith("hf://") else address.replace("hf:/", "hf://", 1)
    if parts is None:
        remedy = "give hf://OWNER/NAME, hf://OWNER/NAME/FILE or hf://datasets/OWNER/NAME"
        raise UserError(f"{where} {shown}", "no name of a repository", remedy)
    try:
        import huggingface_hub as hub
    except ImportError as error:
        remedy = "pip install huggingface_hub"
        raise UserError(f"{where} {shown}", "no package huggingface_hub", remedy) from error
    datasets, name, revision, inside = parts.groups()
    kind = "dataset" if datasets else "model"
    asked = {"repo_id": name, "repo_type": kind, "revision": revision}
    try:
        if inside and Path(inside).suffix:
            return hub.hf_hub_download(filename=inside, **asked)
        pattern = f"{inside}/*" if inside else None
        local = Path(hub.snapshot_download(allow_patterns=pattern, **asked), inside or "")
    except Exception as error:  # of the network, of the name, of the disk
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        command = f"hf download {name} --repo-type {kind} --local-dir FOLDER"
        remedy = f"check the name and the connection, or give the FOLDER of `{command}`"
        problem = lines[0][:120] if lines else type(error).__name__
        raise UserError(f"{where} {shown}", problem, remedy) from error
    if not local.exists():
        raise UserError(
            f"{where} {shown}", f"no {inside} in {name}", "check the name of the folder"
        )
    return str(local)
