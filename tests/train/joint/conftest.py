"""Makes `joint_toys` importable in whichever import mode pytest runs."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
