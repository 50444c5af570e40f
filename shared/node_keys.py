"""Keys of the tenants' Flower nodes: a SuperLink lets only those take part whose public keys are registered.

They are Flower's, and say which machine speaks: elliptic-curve keys in OpenSSH's form. Which tenant it is, and that its
updates are its own, rests on the tenant's identity, which its node never has.
"""

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

NODES = "nodes"  # the folder of the keys, beside `clients`


def node_key_files(client_id: str) -> dict[str, bytes]:
    """A new key's two files, by their names; the private one is the first."""
    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return {
        f"{NODES}/{client_id}.key": key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        f"{NODES}/{client_id}.key.pub": public + b" " + client_id.encode() + b"\n",
    }
