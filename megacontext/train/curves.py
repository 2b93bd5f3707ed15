"""The curve of a training travels with what was trained: reports of runs that use it show how it was made."""

from __future__ import annotations

import shutil
from pathlib import Path

from megacontext.runtime.run import RunFolder
from megacontext.telemetry import TelemetryWriter, read


def ship_curve(run: RunFolder, out: Path) -> None:
    """Write the `train` events of a run to `out`/telemetry, as one part, in the place of what was there."""
    run.telemetry.flush()
    shutil.rmtree(out / "telemetry", ignore_errors=True)
    with TelemetryWriter(out / "telemetry") as curve:
        curve.emit_frame("train", read(run.path / "telemetry", "train"))
