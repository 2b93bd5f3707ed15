"""What a run records about itself: small parquet parts per kind of event, readable while the run goes on."""

from megacontext.telemetry.reader import TelemetryTail, read
from megacontext.telemetry.schema import SCHEMA_VERSION, SCHEMAS
from megacontext.telemetry.writer import NullTelemetry, Telemetry, TelemetryWriter

__all__ = [
    "SCHEMAS",
    "SCHEMA_VERSION",
    "NullTelemetry",
    "Telemetry",
    "TelemetryTail",
    "TelemetryWriter",
    "read",
]
