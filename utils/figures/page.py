"""A self-contained HTML page, from a template and the style and macros that all pages share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.figures.style import LOOKS

SHARED = Path(__file__).with_name("template")  # page.css, macros.html


def render(template: Path, page: Mapping[str, Any]) -> str:
    """The page as HTML; text from files and options is escaped.

    template: a file of jinja2. page: its values; each that it names must be there."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    looks = {name: look.colour for name, look in LOOKS.items()}
    return environment.get_template(template.name).render(**page, looks=looks)
