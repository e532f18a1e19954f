"""The shared core of bgetune: what every stage uses and none of them owns. Imports no stage."""

import os

# Read when torch loads its OpenMP, so set before. With the default, threads that wait keep their core busy, and two
# jobs on one machine slow each other down sixfold; alone, nothing is lost (docs/log.md).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"
