"""JSON with one reading: a key given twice, of which Python keeps the last and another parser the first, is refused."""

import json
from typing import Any


def parse_strict_json(data: bytes) -> Any:
    """The JSON value in `data`, UTF-8.

    Raises:
        ValueError: not JSON, nested too deeply, or a key is given twice. The message quotes none of the content.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        reason = f"not JSON at line {error.lineno}"
    except UnicodeDecodeError:
        reason = "not UTF-8 text"
    except RecursionError:
        reason = "nested too deeply"
    raise ValueError(reason)  # outside the handlers: the parser's exceptions carry the whole text, secrets included


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)
