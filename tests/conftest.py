"""Before anything imports torch: one thread, for the tests' own models are so small that more make each step slower.

It is set in the environment, so that the programs that tests start have it too.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
