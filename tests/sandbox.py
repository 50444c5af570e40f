"""Runs a command under what a unit file takes from its process, where no systemd runs: its system calls, its families
of sockets, no new code in memory, no capabilities, and a file system in which only some folders can be written.

    python -m tests.sandbox deploy/systemd/orchestrator-server.service FOLDER... -- COMMAND...

It is what `SystemCallFilter`, `RestrictAddressFamilies`, `MemoryDenyWriteExecute`, `CapabilityBoundingSet`,
`NoNewPrivileges`, `PrivateNetwork` and `ProtectSystem=strict` amount to, by the same kernel's means: seccomp by way of
libseccomp, which systemd uses too, prctl(2) and a mount namespace. What hides /home, /tmp, /dev and other processes is
left out.
"""

import ctypes
import errno
import os
import shutil
import socket
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

from tests.processes import ROOT

FOLDER = ROOT / "deploy/systemd"
LIBRARY = "libseccomp.so.2"
COMMON = Path("orchestrator-.service.d/hardening.conf")
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000  # SCMP_ACT_ALLOW, and SCMP_ACT_ERRNO but for its errno
_EQUAL, _UNKNOWN = 4, -1  # SCMP_CMP_EQ, __NR_SCMP_ERROR
_SET_NO_NEW_PRIVS, _CAPBSET_DROP, _SET_MDWE = 38, 24, 65  # prctl(2)
_LAST_CAPABILITY = 40
_NEW_NAMESPACES = ["unshare", "--mount", "--propagation", "private"]


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64),
    )  # fmt: skip


def available() -> bool:
    """Whether this machine can do it: as root, with libseccomp, systemd-analyze and a kernel of 6.3 or later."""
    if os.getuid() != 0 or not shutil.which("systemd-analyze") or not shutil.which("unshare"):
        return False
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    probe = "import ctypes, sys; sys.exit(ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0)"
    tried = [[*_NEW_NAMESPACES, "mount", "-o", "bind,remount,ro", "/"], [sys.executable, "-c", probe]]
    return all(subprocess.run(command, capture_output=True).returncode == 0 for command in tried)


def settings(unit: Path) -> dict[str, list[str]]:
    """The `[Service]` part of a unit and of what all have in common: {name: its values in order}."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in (unit, unit.parent / COMMON):
        section = ""
        for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
            if line.startswith("["):
                section = line
            elif section == "[Service]" and line and not line.startswith("#"):
                name, _, value = line.partition("=")
                found[name].append(value)
    return found


@cache
def _members(group: str) -> frozenset[str]:
    """The system calls of a group as systemd names it, such as @system-service."""
    said = subprocess.check_output(["systemd-analyze", "syscall-filter", group], text=True)
    names = [line.strip() for line in said.splitlines()[1:] if line.strip() and not line.strip().startswith("#")]
    return frozenset().union(*(_members(name) if name.startswith("@") else {name} for name in names))


def system_calls(filters: list[str]) -> set[str]:
    """What the lines of `SystemCallFilter` allow together."""
    allowed: set[str] = set()
    for line in filters:
        for name in line.removeprefix("~").split():
            calls = _members(name) if name.startswith("@") else {name}
            allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


def restrict(unit: Path) -> None:
    """Take from this process, and all that it starts, what the unit takes from its own."""
    taken = settings(unit)
    own = ctypes.CDLL(None, use_errno=True)
    if taken["CapabilityBoundingSet"] == [""]:
        for capability in range(_LAST_CAPABILITY + 1):
            own.prctl(_CAPBSET_DROP, capability, 0, 0, 0)
    for name, arguments in (
        ("NoNewPrivileges", (_SET_NO_NEW_PRIVS, 1, 0, 0, 0)),
        ("MemoryDenyWriteExecute", (_SET_MDWE, 1, 0, 0, 0)),
    ):
        if taken[name] == ["yes"] and own.prctl(*arguments):
            raise OSError(ctypes.get_errno(), name)
    _filter(system_calls(taken["SystemCallFilter"]), " ".join(taken["RestrictAddressFamilies"]).split())


def _filter(allowed: set[str], families: list[str]) -> None:
    library = ctypes.CDLL(LIBRARY)
    library.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_REFUSE | errno.EPERM)))
    for name in allowed:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN or name == "socket":
            continue
        # A call that this machine's processors lack has a pseudo-number, for which no rule can be made.
        if library.seccomp_rule_add_array(rules, ctypes.c_uint32(_ALLOW), number, 0, None) and number >= 0:
            raise OSError(errno.EINVAL, f"no rule for {name}")
    for family in families:
        comparison = _Comparison(0, _EQUAL, getattr(socket, family), 0)
        number = library.seccomp_syscall_resolve_name(b"socket")
        if library.seccomp_rule_add_array(rules, ctypes.c_uint32(_ALLOW), number, 1, ctypes.byref(comparison)):
            raise OSError(errno.EINVAL, f"no rule for {family}")
    if library.seccomp_load(rules):
        raise OSError(errno.EINVAL, "the filter can't be loaded")


def inside(unit: Path, writable: list[Path]) -> list[str]:
    """What comes before a command that is to run so."""
    network = ["--net"] if settings(unit)["PrivateNetwork"] == ["yes"] else []
    folders = map(str, writable)
    return [*_NEW_NAMESPACES, *network, sys.executable, "-m", "tests.sandbox", str(unit), *folders, "--"]


def main() -> None:
    """The command line, of which `inside` is the first part."""
    unit, *rest = sys.argv[1:]
    writable, command = rest[: rest.index("--")], rest[rest.index("--") + 1 :]
    for folder in writable:
        subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "bind,remount,ro", "/"], check=True)
    os.environ["TMPDIR"] = writable[0]  # in the place of a /tmp of its own
    restrict(Path(unit))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
