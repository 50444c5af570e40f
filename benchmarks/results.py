"""Everything that one run measured, the ratios that follow from it, and its JSON form."""

from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.auditing import AuditCost
from benchmarks.comb import CombCost
from benchmarks.forest_sums import ForestCost
from benchmarks.masked_round import MaskedCost
from benchmarks.masking_growth import StageCost
from benchmarks.measuring import Measured, times_better
from benchmarks.memory import Peak
from benchmarks.pace import Pace
from benchmarks.rounds import RoundCost
from benchmarks.schemes import OURS, PHE, TENSEAL
from benchmarks.training import TrainingCost

FLOAT32_BYTES = 4  # of a parameter as it is trained
OPERATIONS = ("encrypt", "online", "bytes", "sum", "decrypt")


@dataclass(frozen=True)
class Section:
    """One part of the benchmark, which may be measured anew without the others.

    Attributes:
        machine: facts about it, the load average before the section among them.
        seconds: how long the section took.
    """

    machine: dict[str, Any]
    seconds: float


@dataclass
class Results:
    """Filled by `benchmarks/run.py`, section by section.

    Attributes:
        settings: what all figures have in common.
        sections: when, where and how long each part was measured, by its name.
        notes: what could not be measured, and why.
    """

    settings: dict[str, Any]
    sections: dict[str, Section] = field(default_factory=dict)
    schemes: list[Measured] = field(default_factory=list)
    combs: list[CombCost] = field(default_factory=list)
    rounds: list[RoundCost] = field(default_factory=list)
    memory: list[Peak] = field(default_factory=list)
    masked: list[MaskedCost] = field(default_factory=list)
    growth: list[StageCost] = field(default_factory=list)
    training: list[TrainingCost] = field(default_factory=list)
    audits: list[AuditCost] = field(default_factory=list)
    paces: list[Pace] = field(default_factory=list)
    forests: list[ForestCost] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Results":
        """What `as_json` made."""
        return cls(
            settings=values["settings"],
            sections={name: Section(**section) for name, section in values["sections"].items()},
            schemes=[Measured(**measured) for measured in values["schemes"]],
            combs=[CombCost(**cost) for cost in values["combs"]],
            rounds=[RoundCost(**cost) for cost in values["rounds"]],
            memory=[Peak(**peak) for peak in values["memory"]],
            masked=[MaskedCost(**cost) for cost in values["masked"]],
            growth=[StageCost(**cost) for cost in values["growth"]],
            training=[TrainingCost(**cost) for cost in values.get("training", [])],
            audits=[AuditCost(**cost) for cost in values.get("audits", [])],
            paces=[Pace(**cost) for cost in values.get("paces", [])],
            forests=[ForestCost(**cost) for cost in values.get("forests", [])],
            notes=values["notes"],
        )

    def find(self, name: str, key_bits: int, size: int) -> Measured:
        """The medians of one candidate."""
        return next(m for m in self.schemes if (m.name, m.key_bits, m.size) == (name, key_bits, size))

    def ratios(self) -> dict[str, float]:
        """The figures that matter, for `ratio_parameters` of the settings; without those whose section has not run.

        All are peer over this project, so above 1 is better, but for the comb and the round, which are cost over limit.
        """
        size = self.settings["ratio_parameters"]
        ratios: dict[str, float] = {}
        if self.schemes:
            ours, phe = ({bits: self.find(name, bits, size) for bits in (2048, 3072)} for name in (OURS["blum"], PHE))
            ratios = {
                "encrypt_vs_phe_2048": times_better(ours[2048], phe[2048], "encrypt"),
                "encrypt_vs_phe_3072": times_better(ours[3072], phe[3072], "encrypt"),
                "online_encrypt_vs_phe_3072": times_better(ours[3072], phe[3072], "online"),
                "bytes_vs_phe_3072": times_better(ours[3072], phe[3072], "bytes"),
                "decrypt_vs_phe_2048": times_better(ours[2048], phe[2048], "decrypt"),
                "decrypt_vs_phe_3072": times_better(ours[3072], phe[3072], "decrypt"),
                "bytes_vs_tenseal": times_better(ours[3072], self.find(TENSEAL, 0, size), "bytes"),
            }
            ratios |= self._of_kahe(size)
        for comb in self.combs:
            if comb.key_bits == 3072:
                ratios["comb_vs_limit_3072"] = comb.over_limit
        for cost in self.rounds:
            if (cost.clients, cost.local_epochs) == (3, 5):
                ratios["round_vs_plain_3_clients"] = cost.over_plain
        for training in self.training:
            ratios["train_vs_before"] = training.usual_seconds / training.seconds
        return ratios

    def _of_kahe(self, size: int) -> dict[str, float]:
        measured = {(m.name, m.key_bits): m for m in self.schemes if m.size == size}
        kahe, tenseal = measured.get((OURS["kahe"], 3072)), measured.get((TENSEAL, 0))
        if kahe is None or tenseal is None:  # in a file of figures from before there was kahe
            return {}
        return {
            "kahe_encrypt_vs_tenseal": times_better(kahe, tenseal, "encrypt"),
            "kahe_decrypt_vs_tenseal": times_better(kahe, tenseal, "decrypt"),
            "kahe_bytes_vs_tenseal": times_better(kahe, tenseal, "bytes"),
            "kahe_bytes_vs_float32": FLOAT32_BYTES * size / kahe.median["bytes"],
            "kahe_encrypt_vs_packed": times_better(kahe, measured[OURS["blum"], 3072], "encrypt"),
            "kahe_decrypt_vs_packed": times_better(kahe, measured[OURS["blum"], 3072], "decrypt"),
        }

    def comparisons(self) -> list[dict[str, Any]]:
        """Every peer, and our variants, against the blum key of as many bits; CKKS has none, so against 3072."""
        return [
            {
                "parameters": peer.size,
                "key_bits": ours.key_bits,
                "peer": peer.name,
                **{o: times_better(ours, peer, o) for o in OPERATIONS if o in ours.median},
            }
            for peer in self.schemes
            if peer.name != OURS["blum"]
            for ours in self.schemes
            if (ours.name, ours.key_bits, ours.size) == (OURS["blum"], peer.key_bits or 3072, peer.size)
        ]

    def as_json(self) -> dict[str, Any]:
        """Everything, the ratios first."""
        return {
            "ratios": self.ratios(),
            "comparisons": self.comparisons(),
            **asdict(self),
        }
