"""A folder of Sigma rules, read by pySigma: those for one log source, ready to be asked about its records.

Rules are the reader's own: none are part of this project, and https://github.com/SigmaHQ/sigma has public ones. What
can't be evaluated is named with its reason; a file that holds no Sigma rule is refused, as nobody could tell what it
was meant to find.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from sigma.exceptions import SigmaError, SigmaModifierError, SigmaRegularExpressionError
from sigma.rule import SigmaLogSource, SigmaRule

from shared.bounded_files import read_bounded
from shared.errors import RuleError
from shared.rules.matching import Predicate, Record, UnsupportedError, predicate, texts_needed
from shared.yaml_values import parse_yaml_documents

_log = logging.getLogger("rules")
LEVELS = ("informational", "low", "medium", "high", "critical")
LABEL_LEVEL = "medium"  # from which a hit is a label: of the public rules below it, one hits whoever assumes a role
ALERT_LEVEL = "high"  # from which a hit is an alert by itself
_NAME = "eventName"  # nearly every rule for CloudTrail names what it must be
_MOST_BYTES = 1 << 20  # of one file; a rule has some kilobytes
# Documents of Sigma that are no rule by themselves, by the key that tells them.
_OF_MANY = {
    "correlation": "it correlates several records",
    "filter": "it is a filter of other rules, which are evaluated without it",
    "action": "it is a part of a collection in one file, the form before Sigma 2",
}


@dataclass(frozen=True, eq=False)
class Rule:
    """One rule that can be evaluated.

    Attributes:
        uid: its id, a UUID; its file's name where it has none.
        title: of the rule.
        level: one of `LEVELS`; `informational` where it gives none.
        tags: as it writes them, such as `attack.t1098`.
        meets: whether a record meets its condition.
        names: case-folded, of which `eventName` must be one for it; None: it may be any.
    """

    uid: str
    title: str
    level: str
    tags: tuple[str, ...]
    meets: Predicate = field(repr=False)
    names: frozenset[str] | None = None

    def at_least(self, level: str) -> bool:
        """Whether its level is this one or a higher one."""
        return LEVELS.index(self.level) >= LEVELS.index(level)

    @property
    def family(self) -> str:
        """What the records that it labels are called: its first ATT&CK tactic, or `attack`."""
        tactics = [tag for tag in self.tags if tag.startswith("attack.") and not any(map(str.isdecimal, tag))]
        return tactics[0].removeprefix("attack.").replace("_", "-") if tactics else "attack"


@dataclass(frozen=True, eq=False)
class RuleSet:
    """The rules of one folder for one log source.

    Attributes:
        rules: those that can be evaluated, by their files' names.
        other_sources: how many are for other log sources.
        left_out: those that can't be evaluated: the file and title, and the reason.
    """

    rules: tuple[Rule, ...]
    other_sources: int
    left_out: tuple[tuple[str, str], ...]

    def hits(self, record: Record) -> tuple[int, ...]:
        """Positions in `rules` of those whose condition the record meets."""
        name = record.get(_NAME)
        positions = self._by_name(name.casefold()) if isinstance(name, str) else range(len(self.rules))
        return tuple(position for position in positions if self.rules[position].meets(record))

    def labels(self, hits: Iterable[tuple[int, ...]]) -> list[str]:
        """Of each record's hits the family: that of the rule of the highest level, from `LABEL_LEVEL` on, or `benign`.

        Of equal levels the first rule counts.
        """
        return [self._family(positions) for positions in hits]

    @cached_property
    def _positions(self) -> dict[str | None, list[int]]:
        """Of each name the rules that need it; of None those that need none."""
        found: dict[str | None, list[int]] = {None: []}
        for position, rule in enumerate(self.rules):
            for name in rule.names if rule.names is not None else (None,):
                found.setdefault(name, []).append(position)
        return found

    def _by_name(self, name: str) -> list[int]:
        return sorted([*self._positions[None], *self._positions.get(name, [])])

    def _family(self, positions: tuple[int, ...]) -> str:
        rules = [self.rules[position] for position in positions if self.rules[position].at_least(LABEL_LEVEL)]
        return max(rules, key=lambda rule: LEVELS.index(rule.level)).family if rules else "benign"


def load_rules(folder: Path, product: str, service: str) -> RuleSet:
    """Read the rules of a folder and say in the log what became of them; nothing is read twice while it is unchanged.

    Args:
        folder: with files that end in .yml or .yaml, in folders of any depth; or one such file.
        product: of the log source, such as `aws`. A rule is for a source if it names no other product or service.
        service: such as `cloudtrail`.

    Raises:
        RuleError: a file can't be read or holds what is no Sigma rule, or no rule is for this log source.
    """
    files = files_below(folder)
    if not files:
        raise RuleError(f"rules_path {folder}: expected a folder with Sigma rules, files that end in .yml or .yaml")
    return _load(folder, tuple((file, file.stat().st_mtime_ns) for file in files), product, service)


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
def _load(folder: Path, files: tuple[tuple[Path, int], ...], product: str, service: str) -> RuleSet:
    rules: list[Rule] = []
    left_out: list[tuple[str, str]] = []
    others = 0
    for path, _ in files:
        for document in _documents(path):
            name = f"{path}, {str(document.get('title'))!r:.80}"
            try:
                if not _is_for(document, product, service):
                    others += 1
                    continue
                rules.append(_rule(document, path))
            except UnsupportedError as error:
                left_out.append((name, str(error)))
            except (SigmaError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
                raise RuleError(f"{name}: no Sigma rule: {error}; mend the rule, or take the file away") from None
    source = f"{product} {service}"
    if not rules:
        raise RuleError(
            f"rules_path {folder}: no rule for {source} that can be evaluated, of {others + len(left_out)} in "
            f"{len(files)} files; expected at least one"
        )
    found = RuleSet(tuple(rules), others, tuple(left_out))
    _log.info("%d Sigma rules for %s in %s; %d are for other log sources", len(rules), source, folder, others)
    for name, reason in left_out:
        _log.warning("not evaluated: %s: %s", name, reason)
    return found


def _documents(path: Path) -> list[dict[str, Any]]:
    try:
        documents = parse_yaml_documents(read_bounded(path, _MOST_BYTES).decode())
    except OSError as error:
        raise RuleError(f"{path}: can't be read: {error.strerror}; expected a file with a Sigma rule") from None
    except ValueError as error:  # no UTF-8, or no YAML
        raise RuleError(f"{path}: {error}; expected a Sigma rule") from None
    documents = [document for document in documents if document is not None]
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise RuleError(f"{path}: expected a Sigma rule: title, logsource and detection")
    return documents


def _is_for(document: dict[str, Any], product: str, service: str) -> bool:
    for key, what in _OF_MANY.items():
        if key in document:
            raise UnsupportedError(what)
    source = SigmaLogSource.from_dict(document["logsource"])
    return source.category is None and source.product in (None, product) and source.service in (None, service)


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
    names = [texts_needed(tree, _NAME) for tree in trees]
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
