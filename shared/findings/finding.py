"""What a finding of another detector is once it was read, whatever form it came in."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """One finding. All texts that are compared are case-folded.

    Attributes:
        uid: its id, as its product gives it.
        kind: its type, as its product gives it, such as `Recon:EC2/PortProbeUnprotectedPort`.
        family: of the attack: an ATT&CK tactic as Sigma writes it where the type gives it away, such as
            `credential-access`; else the product's own word for the purpose.
        attack: False where somebody marked it as false positive, or as not useful.
        start, end: of what it is about, seconds since 1970.
        account: of the cloud; empty where it names none.
        principals: ids, ARNs and names of who acted, each of which is one principal's.
        apis: names of calls, without the service.
        remote: addresses of the other side.
        local: addresses of one's own side.
        resources: ids, ARNs and names of what it is about.
        inbound: whether the other side began; None where it is not said.
        techniques: of ATT&CK, such as `T1098.001`, where the finding itself names them.
    """

    uid: str
    kind: str
    family: str
    attack: bool
    start: float
    end: float
    account: str = ""
    principals: frozenset[str] = field(default_factory=frozenset)
    apis: frozenset[str] = field(default_factory=frozenset)
    remote: frozenset[str] = field(default_factory=frozenset)
    local: frozenset[str] = field(default_factory=frozenset)
    resources: frozenset[str] = field(default_factory=frozenset)
    inbound: bool | None = None
    techniques: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class FindingSet:
    """The findings of one file or folder.

    Attributes:
        findings: in the order of the files, each id once: of several states of one the last.
        left_out: how many others there are, by what they are.
    """

    findings: tuple[Finding, ...]
    left_out: tuple[tuple[str, int], ...] = ()
