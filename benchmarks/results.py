"""Everything that one run measured, the ratios that follow from it, and its JSON form."""

from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.comb import CombCost
from benchmarks.measuring import Measured, times_better
from benchmarks.memory import Peak
from benchmarks.rounds import RoundCost
from benchmarks.schemes import OURS, PHE, TENSEAL

OPERATIONS = ("encrypt", "online", "bytes", "sum", "decrypt")


@dataclass
class Results:
    """Filled by `benchmarks/run.py`, section by section.

    Attributes:
        machine: facts about it, the load average before the run among them.
        settings: what all figures have in common.
        notes: what could not be measured, and why.
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    schemes: list[Measured] = field(default_factory=list)
    combs: list[CombCost] = field(default_factory=list)
    rounds: list[RoundCost] = field(default_factory=list)
    memory: list[Peak] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def find(self, name: str, key_bits: int, size: int) -> Measured:
        """The medians of one candidate."""
        return next(m for m in self.schemes if (m.name, m.key_bits, m.size) == (name, key_bits, size))

    def ratios(self) -> dict[str, float]:
        """The figures that matter, for `ratio_parameters` of the settings.

        All are peer over this project, so above 1 is better, but for the last two, which are cost over limit.
        """
        size = self.settings["ratio_parameters"]
        ours, phe = ({bits: self.find(name, bits, size) for bits in (2048, 3072)} for name in (OURS["blum"], PHE))
        return {
            "encrypt_vs_phe_2048": times_better(ours[2048], phe[2048], "encrypt"),
            "encrypt_vs_phe_3072": times_better(ours[3072], phe[3072], "encrypt"),
            "online_encrypt_vs_phe_3072": times_better(ours[3072], phe[3072], "online"),
            "bytes_vs_phe_3072": times_better(ours[3072], phe[3072], "bytes"),
            "decrypt_vs_phe_2048": times_better(ours[2048], phe[2048], "decrypt"),
            "decrypt_vs_phe_3072": times_better(ours[3072], phe[3072], "decrypt"),
            "bytes_vs_tenseal": times_better(ours[3072], self.find(TENSEAL, 0, size), "bytes"),
            "comb_vs_limit_3072": next(c.over_limit for c in self.combs if c.key_bits == 3072),
            "round_vs_plain_3_clients": next(
                r.over_plain for r in self.rounds if (r.clients, r.local_epochs) == (3, 5)
            ),
        }

    def comparisons(self) -> list[dict[str, Any]]:
        """Every peer, and the subgroup key, against the blum key of as many bits; CKKS has none, so against 3072."""
        return [
            {
                "parameters": peer.size,
                "key_bits": ours.key_bits,
                "peer": peer.name,
                **{o: times_better(ours, peer, o) for o in OPERATIONS if o in ours.median},
            }
            for peer in self.schemes
            if peer.name != OURS["blum"]
            for ours in [self.find(OURS["blum"], peer.key_bits or 3072, peer.size)]
        ]

    def as_json(self) -> dict[str, Any]:
        """Everything, the ratios first."""
        return {
            "ratios": self.ratios(),
            "comparisons": self.comparisons(),
            **asdict(self),
        }
