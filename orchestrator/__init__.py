"""The orchestrator's side: choose tenants, add their encrypted updates, decrypt the sum alone.

`from orchestrator import simulate` runs a whole federation in this process.
"""

import os
from typing import Any

# A privacy tool does not phone home. Flower reads these when it is first imported, which the adapters do after this.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
# Its lines of each handshake that fails would let a stranger fill the terminal; what matters is told by this project.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def __getattr__(name: str) -> Any:
    if name == "simulate":  # not imported at the top: PyTorch takes seconds, and most modules here need none of it
        from orchestrator.simulation import simulate

        return simulate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
