"""A folder of Sigma rules, read by pySigma: those for one log source, ready to be asked about its records.

Rules are the reader's own: none are part of this project, and https://github.com/SigmaHQ/sigma has public ones. What
can't be evaluated is named with its reason; a file that holds no Sigma rule is refused, as nobody could tell what it
was meant to find.
"""

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

from sigma.exceptions import SigmaError, SigmaModifierError, SigmaRegularExpressionError
from sigma.rule import SigmaLogSource, SigmaRule

from shared.bounded_files import read_bounded
from shared.errors import ConfigError, OrchestratorError
from shared.rules.matching import UnsupportedError, predicate, texts_needed
from shared.rules.rule import LEVELS, NAME_FIELD, Rule, RuleSet
from shared.yaml_values import parse_yaml_documents

_log = logging.getLogger("rules")
# By the setting `data_source`: the product and service of a Sigma log source.
LOG_SOURCES = {"cloudtrail": ("aws", "cloudtrail")}
_MOST_BYTES = 1 << 20  # of one file; a rule has some kilobytes
# Documents of Sigma that are no rule by themselves, by the key that tells them.
_OF_MANY = {
    "correlation": "it correlates several records",
    "filter": "it is a filter of other rules, which are evaluated without it",
    "action": "it is a part of a collection in one file, the form before Sigma 2",
}


def load_rules(folder: Path, data_source: str) -> RuleSet:
    """Read the rules of a folder and say in the log what became of them; nothing is read twice while it is unchanged.

    Args:
        folder: with files that end in .yml or .yaml, in folders of any depth; or one such file.
        data_source: whose records they are to be evaluated on. A rule is for its log source if it names no other
            product, service or category.

    Raises:
        ConfigError: no rules are written for such records.
        OrchestratorError: a file can't be read or holds what is no Sigma rule, or no rule is for this log source.
    """
    if data_source not in LOG_SOURCES:
        raise ConfigError(
            f"rules_path {folder}: Sigma rules are evaluated on records of {', '.join(LOG_SOURCES)} alone, and these "
            f"are of {data_source}"
        )
    product, service = LOG_SOURCES[data_source]
    found = rules_for(folder, product, service)
    if not found.rules:
        raise no_rules(folder, f"{product} {service}", found)
    return found


def rules_for(folder: Path, product: str, service: str, category: str = "") -> RuleSet:
    """The rules of a folder for one log source, of which there may be none.

    Args:
        folder: as in `load_rules`.
        product: of the log source.
        service: of the log source.
        category: that a rule for it may name as well.

    Raises:
        OrchestratorError: a file can't be read or holds what is no Sigma rule, or there is no file.
    """
    files = files_below(folder)
    if not files:
        raise OrchestratorError(
            f"rules_path {folder}: expected a folder with Sigma rules, files that end in .yml or .yaml"
        )
    states = tuple((file, file.stat().st_mtime_ns) for file in files)
    return _load(folder, states, product, service, category)


def no_rules(folder: Path, source: str, found: RuleSet) -> OrchestratorError:
    """For a folder without a rule for what is asked for."""
    return OrchestratorError(
        f"rules_path {folder}: no rule for {source} that can be evaluated, of "
        f"{found.other_sources + len(found.left_out)} in {len(files_below(folder))} files; expected at least one"
    )


def files_below(folder: Path) -> list[Path]:
    """The files that `load_rules` reads, by name."""
    if folder.is_file():
        return [folder]
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in (".yml", ".yaml") and not path.name.startswith(".") and path.is_file()
    )


@lru_cache(maxsize=16)
def _load(folder: Path, files: tuple[tuple[Path, int], ...], product: str, service: str, category: str) -> RuleSet:
    rules: list[Rule] = []
    left_out: list[tuple[str, str]] = []
    others = 0
    for path, changed in files:
        for document in _documents(path, changed):
            name = f"{path}, {str(document.get('title'))!r:.80}"
            try:
                if not _is_for(document, product, service, category):
                    others += 1
                    continue
                rules.append(_rule(document, path))
            except UnsupportedError as error:
                left_out.append((name, str(error)))
                _tell_left_out(name, str(error), changed)
            except (SigmaError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
                raise OrchestratorError(
                    f"{name}: no Sigma rule: {error}; mend the rule, or take the file away"
                ) from None
    source = f"{product} {service}"
    found = RuleSet(tuple(rules), others, tuple(left_out))
    if rules:
        _log.info("%d Sigma rules for %s in %s; %d are for other log sources", len(rules), source, folder, others)
    return found


@lru_cache(maxsize=4096)  # one folder may be read for several log sources
def _tell_left_out(name: str, reason: str, _changed: int) -> None:
    _log.warning("not evaluated: %s: %s", name, reason)


@lru_cache(maxsize=4096)
def _documents(path: Path, _changed: int) -> list[dict[str, Any]]:
    try:
        documents = parse_yaml_documents(read_bounded(path, _MOST_BYTES).decode())
    except OSError as error:
        raise OrchestratorError(f"{path}: can't be read: {error.strerror}; expected a file with a Sigma rule") from None
    except ValueError as error:  # no UTF-8, or no YAML
        raise OrchestratorError(f"{path}: {error}; expected a Sigma rule") from None
    documents = [document for document in documents if document is not None]
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise OrchestratorError(f"{path}: expected a Sigma rule: title, logsource and detection")
    return documents


def _is_for(document: dict[str, Any], product: str, service: str, category: str) -> bool:
    for key, what in _OF_MANY.items():
        if key in document:
            raise UnsupportedError(what)
    source = SigmaLogSource.from_dict(document["logsource"])
    return (
        source.category in (None, category) and source.product in (None, product) and source.service in (None, service)
    )


def _rule(document: dict[str, Any], path: Path) -> Rule:
    """A rule of one document, which pySigma parses.

    Raises:
        UnsupportedError: it can't be evaluated.
        SigmaError: it is no rule; of a document of another shape also what Python raises.
    """
    conditions = document["detection"]["condition"]
    if "timeframe" in document["detection"] or any("|" in str(condition) for condition in _listed(conditions)):
        raise UnsupportedError("it counts records over a time")
    try:
        parsed = SigmaRule.from_dict(document)
        trees = [condition.parsed for condition in parsed.detection.parsed_condition]
    except SigmaRegularExpressionError as error:
        raise UnsupportedError(str(error)) from None
    except SigmaModifierError as error:
        if type(error) is not SigmaModifierError:  # of the types below it, a value that does not go with its modifier
            raise
        raise UnsupportedError(str(error)) from None
    tests = [predicate(tree) for tree in trees]
    names = [texts_needed(tree, NAME_FIELD) for tree in trees]
    return Rule(
        uid=str(parsed.id or path.stem),
        title=parsed.title,
        level=str(parsed.level or LEVELS[0]),
        tags=tuple(map(str, parsed.tags)),
        meets=tests[0] if len(tests) == 1 else lambda record: any(test(record) for test in tests),
        names=names[0] if len(names) == 1 else None,
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
