"""What the columns, symbols and attack names of NSL-KDD are.

All of it is part of the data set's public definition (the header of its ARFF files and the task description of the
KDD Cup 1999), so no client needs another client's rows to know which values exist.
"""

from collections.abc import Mapping
from types import MappingProxyType

PROTOCOLS = ("icmp", "tcp", "udp")
FLAGS = ("OTH", "REJ", "RSTO", "RSTOS0", "RSTR", "S0", "S1", "S2", "S3", "SF", "SH")
SERVICES = tuple(
    """
    IRC X11 Z39_50 aol auth bgp courier csnet_ns ctf daytime discard domain domain_u echo eco_i ecr_i efs exec finger
    ftp ftp_data gopher harvest hostnames http http_2784 http_443 http_8001 imap4 iso_tsap klogin kshell ldap link login
    mtp name netbios_dgm netbios_ns netbios_ssn netstat nnsp nntp ntp_u other pm_dump pop_2 pop_3 printer private red_i
    remote_job rje shell smtp sql_net ssh sunrpc supdup systat telnet tftp_u tim_i time urh_i urp_i uucp uucp_path vmnet
    whois
    """.split()  # noqa: SIM905 (one value per line would fill two screens)
)
SYMBOLS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"protocol_type": PROTOCOLS, "service": SERVICES, "flag": FLAGS}
)

ATTACK_NAME = "attack_name"
DIFFICULTY = "difficulty"
COLUMNS = tuple(
    f"""
    duration protocol_type service flag src_bytes dst_bytes land wrong_fragment urgent hot num_failed_logins logged_in
    num_compromised root_shell su_attempted num_root num_file_creations num_shells num_access_files num_outbound_cmds
    is_host_login is_guest_login count srv_count serror_rate srv_serror_rate rerror_rate srv_rerror_rate same_srv_rate
    diff_srv_rate srv_diff_host_rate dst_host_count dst_host_srv_count dst_host_same_srv_rate dst_host_diff_srv_rate
    dst_host_same_src_port_rate dst_host_srv_diff_host_rate dst_host_serror_rate dst_host_srv_serror_rate
    dst_host_rerror_rate dst_host_srv_rerror_rate {ATTACK_NAME} {DIFFICULTY}
    """.split()
)
NUMERIC = tuple(name for name in COLUMNS if name not in (*SYMBOLS, ATTACK_NAME, DIFFICULTY))
# Counts without an upper limit: a few records are thousands of times the median, and would be all that a mean and a
# standard deviation describe.
HEAVY_TAILED = (
    "duration",
    "src_bytes",
    "dst_bytes",
    "hot",
    "num_compromised",
    "num_root",
    "num_file_creations",
)
NUM_FEATURES = len(NUMERIC) + sum(len(values) for values in SYMBOLS.values())

BENIGN_NAME = "normal"
# The second line of each family names the attacks that occur in KDDTest+ alone. Sources disagree on two of them:
# `worm` is also seen as r2l and `httptunnel` as u2r.
_ATTACKS = {
    "dos": """back land neptune pod smurf teardrop
              apache2 mailbomb processtable udpstorm worm""",
    "probe": """ipsweep nmap portsweep satan
                mscan saint""",
    "r2l": """ftp_write guess_passwd imap multihop phf spy warezclient warezmaster
              sendmail named snmpgetattack snmpguess xlock xsnoop httptunnel""",
    "u2r": """buffer_overflow loadmodule perl rootkit
              ps sqlattack xterm""",
}
FAMILY_OF: Mapping[str, str] = MappingProxyType(
    {BENIGN_NAME: "benign"} | {attack: family for family, names in _ATTACKS.items() for attack in names.split()}
)
