"""Constants that several tests share."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Overrides for a run that is small and quick, for what does not depend on the network.
QUICK = ("epochs=1", "backbone.hidden=[16]", "progress=false", "pictures=[]")
