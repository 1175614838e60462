"""The interface between the engine and its connectors.

A connector is a class that implements ``Source`` or ``Destination``. All other protocols are
optional capabilities: a connector class implements them in addition.
"""

from engine_server.connectors.interface.checkpoints import (
    CheckpointKeeper,
    ResumeRequest,
    ResumeResult,
    Rewind,
)
from engine_server.connectors.interface.destination import (
    Destination,
    RejectedRecordKeeper,
    RetryResult,
)
from engine_server.connectors.interface.lifecycle import KeepAlive, TeardownPlanner
from engine_server.connectors.interface.reading import ReadRequest
from engine_server.connectors.interface.source import (
    AccountSource,
    InputChecker,
    InputFault,
    Source,
    SourceClock,
    StreamExplainer,
    StreamLookup,
)
from engine_server.connectors.interface.stored_rows import (
    QuickStoredRows,
    StoredRows,
    StoredRowsKeeper,
)
from engine_server.connectors.interface.streams import (
    ConfigT,
    ConfigT_contra,
    Messages,
    SelectedStream,
)

__all__ = [
    "AccountSource",
    "CheckpointKeeper",
    "ConfigT",
    "ConfigT_contra",
    "Destination",
    "InputChecker",
    "InputFault",
    "KeepAlive",
    "Messages",
    "QuickStoredRows",
    "ReadRequest",
    "RejectedRecordKeeper",
    "ResumeRequest",
    "ResumeResult",
    "RetryResult",
    "Rewind",
    "SelectedStream",
    "Source",
    "SourceClock",
    "StoredRows",
    "StoredRowsKeeper",
    "StreamExplainer",
    "StreamLookup",
    "TeardownPlanner",
]
