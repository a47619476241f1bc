"""The shell of every HTML page: template, style, scripts, embedded data, charting script.

Two rules keep a page safe and alone. Text reaches the page only through jinja2 with autoescape or
through `embed`, so that a name full of markup is shown as text; and a content security policy
forbids the page to fetch anything.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icl_bench.records.writing import write_atomically
from icl_bench.render.html.packing import pack
from icl_bench.render.writing.text import legible

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

Plotly = Literal["inline", "shared"]
"""Where a page has its charting script: packed inside, or in one file for all pages of a folder."""

_ESCAPES = {
    **{"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"},
    **{"\u2028": "\\u2028", "\u2029": "\\u2029"},
}
"""What could end a script element or a line of it; JSON reads the same text back."""


def make_page(
    template: str,
    *,
    title: str,
    data: Mapping[str, Any],
    scripts: Sequence[str] = (),
    styles: Sequence[str] = (),
    plotly: str | None = None,
    **context: Any,
) -> str:
    """Return a whole HTML page.

    Args:
        template: name of a file in `templates/` that extends `base.html.j2`.
        title: of the browser's tab, plain text.
        data: what the scripts draw from, as JSON; read there as `icl.data`.
        scripts: names of files in `assets/` that come after `base.js`, in this order, each in an
            element of its own.
        styles: names of files in `assets/` that come after `base.css`.
        plotly: relative address of the charting script; None packs it into the page, and a page
            without charts has "".
        context: what the template reads; plain text is escaped there.
    """
    from markupsafe import Markup

    return (
        _environment()
        .get_template(template)
        .render(
            title=title,
            style=Markup("\n".join(_asset(name) for name in ("base.css", *styles))),
            scripts=[Markup(_asset(name)) for name in ("base.js", *scripts)],
            data=embed(data),
            plotly_src=plotly,
            plotly_packed=_packed_plotly() if plotly is None else None,
            **context,
        )
        .strip()
        + "\n"
    )


def embed(data: Any) -> Markup:
    """Return data as JSON that may stand inside a script element, whatever text it holds.

    Args:
        data: what `json` can write; no NaN.
    """
    from markupsafe import Markup

    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign, escaped in _ESCAPES.items():
        text = text.replace(sign, escaped)
    # Half a surrogate pair, as a byte-level tokenizer may leave, has no UTF-8.
    return Markup(re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text))


def share_plotly(folder: str | os.PathLike[str]) -> Path:
    """Write the charting script into a report folder, unless it is there, and return its path.

    Args:
        folder: the folder that all pages of the run lie under.
    """
    path = Path(folder) / plotly_name()
    if not path.is_file():
        write_atomically(path, _plotly())
    return path


def plotly_name() -> str:
    """Return the file name of the shared charting script; it holds the script's version."""
    return f"plotly-{_offline().get_plotlyjs_version()}.min.js"


@functools.cache
def _offline() -> Any:
    kept = warnings.formatwarning
    try:
        from plotly import offline
    finally:
        # Plotly 5 changes how the whole process writes its warnings.
        warnings.formatwarning = kept
    return offline


@functools.cache
def _plotly() -> str:
    return str(_offline().get_plotlyjs())


@functools.cache
def _packed_plotly() -> str:
    """The charting script as base64 of gzip, which a browser unpacks: two fifths of its size."""
    return pack(gzip.compress(_plotly().encode(), 6, mtime=0))


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    def finalize(value: Any) -> Any:
        return legible(value) if type(value) is str else value

    return Environment(
        loader=PackageLoader("icl_bench.render.html"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@functools.cache
def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")
