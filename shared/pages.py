"""What pages of this project have in common: one look, a template engine that escapes, and a policy against scripts."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from shared.printable import printable


def template_engine(*folders: Path) -> Environment:
    """For the templates of these folders: it escapes what is no markup of this project's own, and knows all names."""
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = printable
    return environment


STYLE_SHEET = Path(__file__).with_name("page_style.css")


def page_style() -> Markup:
    """The style sheet, to be put into a page."""
    return Markup(STYLE_SHEET.read_text(encoding="utf-8"))  # noqa: S704 (our own file)
