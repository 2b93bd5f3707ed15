"""The curves of a run, as points in the plots' sources."""

from pathlib import Path

from desks import desk_on, live_run

from megacontext.telemetry import TelemetryWriter
from workbench.views import RunsView


def test_curves_take_in_points_without_being_drawn_anew(tmp_path: Path) -> None:
    run = live_run(tmp_path / "live")
    with TelemetryWriter(run / "telemetry", flush_seconds=0) as writer:
        for step in range(3):
            writer.emit("train", step=step, stage="base", loss_nats=5.0 - step)
        desk = desk_on(run)
        view = RunsView(desk)
        live = view._lines["Losses"]
        figure, source = live._figure, live._sources["minimised"]
        writer.emit("train", step=9, stage="base", loss_nats=9.0)
        desk.run.refresh()
        view.refresh()
        assert live._figure is figure and list(source.data["step"]) == [0, 1, 2, 9]
        assert figure.x_range.end == 9 and figure.y_range.end >= 9
        # A line that was not there makes the plot be drawn anew.
        writer.emit("train", step=10, stage="lens", lens_loss_nats=1.0)
        desk.run.refresh()
        view.refresh()
        assert live.names == ["minimised", "LensNet"] and live._figure is not figure
