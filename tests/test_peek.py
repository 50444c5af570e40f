"""The dishonest orchestrator opens what is open: each kind of mask is there for one of its attacks."""

import re

import pytest

from tests.conftest import Start
from tests.processes import ROOT

pytestmark = pytest.mark.long

TWIN = "import sys; from benchmarks.peek import main; sys.exit(main(['tests/careless_clients.py', sys.argv[1]]))"


@pytest.mark.timeout(400)
def test_an_update_is_open_without_masks_and_closed_with_them(start: Start) -> None:
    end = start("benchmarks/peek.py").finish(timeout=390)
    assert end.code == 0, end.output
    assert end.output.splitlines()[-1] == "peek: unmasked=opened masked=refused"
    assert end.output.count(": refused: BadSignatureError") == 4
    assert end.output.count(": refused: BothSharesError") == 4
    shown = shown_in_readme()
    assert shown[-1] == end.output.splitlines()[-1]
    assert is_shortened([without_figures(line) for line in shown], without_figures(end.output).splitlines())


def shown_in_readme() -> list[str]:
    """The lines of the block that shows this command's output."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```\n(secure_aggregation: none\..+?)\n```$", text, re.M | re.S)
    return str(block).splitlines()


def without_figures(text: str) -> str:
    """Masks are new in each run, and other processors train to other last digits."""
    return re.sub(r"[+-]?\d+\.\d+", "#", text)


def is_shortened(shown: list[str], whole: list[str]) -> bool:
    """Whether `shown` is `whole` without the lines that an ellipsis stands for."""
    rest = iter(whole)
    for line in shown:
        if line.strip() == "…":
            continue
        if line not in rest:  # `in` goes on from the last line found, so the order counts, too
            return False
    return True


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("left_out", "opened_by"), [("pair", "with client 0's own mask taken off"), ("own", "falsely declared lost")]
)
def test_with_one_kind_of_mask_left_out_it_opens_the_update_and_says_so(
    start: Start, left_out: str, opened_by: str
) -> None:
    end = start("-c", TWIN, left_out).finish(timeout=390)
    assert end.code == 1, end.output
    assert end.output.splitlines()[-1] == "peek: unmasked=opened masked=opened"
    masked = end.output.partition("Four rounds")[2]
    assert masked.count("OPENED") == 1
    assert opened_by in masked.partition("OPENED")[0].splitlines()[-4]
