"""A tenant's side: train on the tenant's own logs, encrypt the model update, send it."""

import os

# A privacy tool does not phone home. Flower reads these when it is first imported, which the adapters do after this.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
# Its lines of each handshake that fails would let a stranger fill the terminal; what matters is told by this project.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
