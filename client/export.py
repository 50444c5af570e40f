"""Write the model of a run as ONNX, with the scaling inside: raw features in, the probability of an attack out.

python client/export.py --model logs/latest --out model.onnx
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from shared import cli
from shared.console import setup_logging
from shared.private_files import keep_files_private

_log = logging.getLogger("export")


def main(argv: Sequence[str] | None = None) -> int:
    """Export one model; 0 if the file was written."""
    parser = argparse.ArgumentParser(description="Write the model of a run as ONNX.")
    parser.add_argument("--model", required=True, help="folder of a run, such as logs/latest")
    parser.add_argument(
        "--model_class", default="", help="package.module:Class, if the run's model is a class of your own"
    )
    parser.add_argument("--out", required=True, help="the ONNX file to write")
    args = parser.parse_args(argv)
    setup_logging()
    return cli.run(lambda: _export(args), _log, interrupted="nothing was written")


def _export(args: argparse.Namespace) -> None:
    # PyTorch is seconds to load: not for --help.
    from client.onnx_model import export_onnx
    from shared.bundle import ModelBundle

    keep_files_private()  # as the run's own model is
    for name in ("torch", "onnx_ir", "onnxscript"):  # they tell of each step that they take
        logging.getLogger(name).setLevel(logging.ERROR)
    bundle = ModelBundle.load(args.model, args.model_class)
    export_onnx(bundle, Path(args.out))
    _log.info("%s: %d raw features in, attack probability out", args.out, len(bundle.schema))


if __name__ == "__main__":
    sys.exit(main())
