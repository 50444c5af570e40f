"""Write the reference of the settings: `docs/settings.md` for people, `config/schema.json` for editors.

python -m shared.settings_docs

Types, defaults and ranges are those of the model in `shared/config.py`; groups and meanings are the comments of
`config/config.yaml`, which nobody has to write twice.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from shared.config import Config
from shared.setting_forms import form_of

ROOT = Path(__file__).resolve().parent.parent
_INTRODUCTION = """# Settings

<!-- Written by `make settings` from shared/config.py and the comments of config/config.yaml: change it there. -->

The settings of one run are one YAML file, which the server and the clients read alike. A key that is left out has its
default. An unknown key, a wrong type, a value that is not allowed, or settings that can't work together are refused at
the start, in one line that says what is expected.
"""


def reference(example: str) -> str:
    """`docs/settings.md`, from the text of `config/config.yaml`."""
    lines = [_INTRODUCTION]
    meanings = _meanings(example)
    for title, keys in _groups(example).items():
        lines += [f"## {title[0].upper()}{title[1:]}", "", "| key | default | allowed | meaning |", "|---|---|---|---|"]
        for key in keys:
            default = Config.model_fields[key].default
            plain = yaml.safe_dump(list(default) if isinstance(default, tuple) else default, default_flow_style=True)
            shown = plain.removesuffix("...\n").strip().replace("''", '""')
            lines.append(f"| `{key}` | `{shown}` | {_allowed(key)} | {_markdown(meanings[key])} |")
        lines.append("")
    return "\n".join(lines)


def schema(example: str) -> str:
    """`config/schema.json`, from the text of `config/config.yaml`."""
    made: dict[str, Any] = Config.model_json_schema()
    for key, meaning in _meanings(example).items():
        made["properties"][key] = {**made["properties"][key], "description": meaning}
        del made["properties"][key]["title"]
    made["description"] = "The settings of one run."
    return json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **made}, indent=1) + "\n"


def _groups(example: str) -> dict[str, list[str]]:
    parts = re.split(r"^# --- (.+?) -*$", example, flags=re.M)[1:]
    return {title: re.findall(r"^(\w+):", body, re.M) for title, body in zip(parts[::2], parts[1::2], strict=True)}


def _meanings(example: str) -> dict[str, str]:
    """The comment beside each key, with the lines that carry it on."""
    found = re.findall(r"^(\w+):.*?  ?# (.+(?:\n {8,}# .+)*)", example, re.M)
    return {key: re.sub(r"\n +# ", " ", comment) for key, comment in found}


def _allowed(key: str) -> str:
    form = form_of(Config.model_json_schema()["properties"][key])
    if "enum" in form:
        own = f", or `{form['own']}`" if "own" in form else ""
        return ", ".join(f"`{choice}`" if choice else '`""`' for choice in form["enum"]) + own
    kind = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "string": "text"}[form["type"]]
    bounds = f", {form['minimum']:.10g} to {form['maximum']:.10g}" if "minimum" in form else ""
    return f"{kind}{' or list of them' if 'list' in form else ''}{bounds}"


def _markdown(meaning: str) -> str:
    """As a cell of a table in `docs/`: no star is taken for emphasis, and documents are linked."""
    return re.sub(r"docs/(\w+\.md)", r"[\1](\1)", re.sub(r"([*|])", r"\\\1", meaning))


def main() -> None:
    """Write both files."""
    example = (ROOT / "config/config.yaml").read_text(encoding="utf-8")
    (ROOT / "docs/settings.md").write_text(reference(example), encoding="utf-8")
    (ROOT / "config/schema.json").write_text(schema(example), encoding="utf-8")


if __name__ == "__main__":
    main()
