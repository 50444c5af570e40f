"""Who spoils sums: named by the groups that it was in, since no single vector can be looked at.

Each draw puts a bad tenant among other ones, and its group is bad again. Whoever was in a bad group in every draw is
under suspicion. An honest tenant is so by chance: by the product of the shares of tenants that the bad groups held.
"""

from collections.abc import Iterable, Sequence

from orchestrator.run_folder import RoundRecord

CHANCE = 0.05  # of as many honest tenants among the named, at most


def left_out(records: Sequence[RoundRecord]) -> list[str]:
    """The tenants that were named so far, in the last record's words and by what that one adds.

    Args:
        records: of the rounds so far.
    """
    if not records:
        return []
    before = set(records[-1].left_out)
    return sorted(before | set(_cornered(_since_naming(records))), key=int)


def _since_naming(records: Sequence[RoundRecord]) -> list[RoundRecord]:
    """The rounds that count: those over the tenants that are still in."""
    named = records[-1].left_out
    return [record for record in records if record.left_out == named]


def _cornered(records: Iterable[RoundRecord]) -> set[str]:
    """The tenants that were in a bad group of every draw, from the last one back, once chance does not explain it."""
    bad: dict[str, set[str]] = {}
    everybody: dict[str, set[str]] = {}
    for record in records:
        if record.draw and record.bad_groups:
            bad.setdefault(record.draw, set()).update(*(record.groups[number] for number in record.bad_groups))
            everybody.setdefault(record.draw, set()).update(*record.groups)
    suspects: set[str] = set()
    chance = 1.0
    for draw in reversed(bad):
        narrowed = bad[draw] if chance == 1.0 else suspects & bad[draw]
        if not narrowed:
            break
        suspects = narrowed
        chance *= len(bad[draw]) / len(everybody[draw])
        if len(everybody[draw]) * chance < CHANCE:
            return suspects
    return set()
