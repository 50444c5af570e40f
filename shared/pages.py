"""What pages of this project have in common: one look, a template engine that escapes, and a policy against scripts."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from shared.printable import printable


def template_engine(folder: Path) -> Environment:
    """For the templates of a folder: it escapes whatever is no markup of this project's own, and knows all names."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = printable
    return environment


def page_style() -> Markup:
    """The style sheet, to be put into a page."""
    return Markup(Path(__file__).with_name("page_style.css").read_text(encoding="utf-8"))  # noqa: S704 (our own file)
