"""The orchestrator's side: choose clients, add their encrypted updates, decrypt the sum alone."""

import os

# A privacy tool does not phone home. Flower reads these when it is first imported, which the adapters do after this.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
