"""What the HTML pages share: one file each, with its style and its pictures inside, that loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from html import escape
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from string import Template

from matplotlib.figure import Figure

from atrous._files import whole_file

_LIGHT = {"ink": "#1f2328", "paper": "#ffffff"}
_DARK = {"ink": "#e3e7eb", "paper": "#14171b"}
"""Ink and paper of a page, as in its style sheet."""


def write_page(template: str, parts: Mapping[str, str], path: str | Path) -> None:
    """Fill a template of this package and write it as one HTML file.

    Args:
        template: its file name; `$style` in it stands for the style sheet of all pages.
        parts: what stands for its other names, as HTML.
        path: the file; it appears only when whole.

    Raises:
        DataError: the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> names = ("network", "input", "tiles", "sections", "versions")
        >>> with TemporaryDirectory() as folder:
        ...     write_page("inspection.html", dict.fromkeys(names, "something"), f"{folder}/page.html")
        ...     Path(f"{folder}/page.html").read_text(encoding="utf-8").count("<style>")
        1
    """
    folder = files("atrous.plots")
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    page = Template(folder.joinpath(template).read_text(encoding="utf-8")).substitute(parts, style=style)
    with whole_file(path) as part:
        part.write_text(page, encoding="utf-8")


def both_themes(draw: Callable[[dict[str, str]], Figure], alt: str) -> str:
    """Return a picture that is drawn twice, and shown in the colours that the reader's screen has.

    Args:
        draw: from the arguments `ink` and `paper` to a figure.
        alt: what it shows, in words.
    """
    light, dark = (_drawn(draw(theme)) for theme in (_LIGHT, _DARK))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{escape(alt)}"></picture>'
    )


def framed(source: str, alt: str, caption: str = "") -> str:
    """Return a picture with the words below it."""
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{source}" alt="{escape(alt)}">{words}</figure>'


def data_uri(buffer: BytesIO, kind: str) -> str:
    """Return an image file, of the kind 'png' or 'jpeg', as the address of itself.

    Example:
        >>> data_uri(BytesIO(b"not a picture"), "png")
        'data:image/png;base64,bm90IGEgcGljdHVyZQ=='
    """
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _drawn(figure: Figure) -> str:
    buffer = BytesIO()
    # Lines keep their colour only where chroma is not subsampled.
    figure.savefig(buffer, format="jpeg", dpi=180, pil_kwargs={"quality": 88, "subsampling": 0})
    return data_uri(buffer, "jpeg")
