"""What stands beside the protos is no package: it is found by its folder."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "protos"))
