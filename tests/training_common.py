# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of training/ share: its Python, an environment of its own, and what to do where there is none."""

import os
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TRAINING_PYTHON = Path(os.environ.get("TRAINING_PYTHON", ROOT / ".venv-training" / "bin" / "python"))
SKIPPED = 77  # ctest's SKIP_RETURN_CODE


def run_training(*arguments, **options) -> subprocess.CompletedProcess:
    """Run the training environment's Python on one thread; the result has stdout and stderr as text."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([TRAINING_PYTHON, *map(str, arguments)], env=environment, text=True, capture_output=True,
                          **options)


def skip_without_training() -> None:
    """End the process as skipped where there is no training environment."""
    if not TRAINING_PYTHON.is_file():
        print("skipped: there is no training environment (make training-env, or -DTRAINING_PYTHON=...)")
        sys.exit(SKIPPED)


def main() -> None:
    """unittest.main() where there is a training environment, else skipped."""
    skip_without_training()
    unittest.main()
