"""Reports of rewound streams."""

import json

from pipesync.v1 import pipeline_service_pb2 as contract
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import Eof, LostInputs, Resumption, RewoundStream
from tests.pipesync_cli.program import pipelines_of
from tests.pipesync_cli.scripted_service import scripted_service
from tests.pipesync_cli.test_sync import done
from tests.pipesync_cli.test_watching import deleted, seen

REWOUND = [
    RewoundStream(stream="customers", from_start=True, reason="its table is\nempty"),
    RewoundStream(stream="", reason="a backup was restored"),
]
SENTENCES = [
    "warning: customers is read from the start: its table is empty",
    "warning: the shared checkpoint resumes from an earlier position: a backup was restored",
    "warning: the destination lost events that had been applied; the service applies them again",
]


def rewound() -> Eof:
    eof = done()
    eof.rewound_streams.extend(REWOUND)
    eof.lost_inputs.CopyFrom(LostInputs())
    return eof


async def test_sync_batch_reports_rewound_streams_with_reasons() -> None:
    service = scripted_service()
    service.ends = [rewound()]
    outcome = await pipelines_of(service, "sync_batch", "orders")
    assert outcome.code == 0
    assert [line for line in outcome.stderr.splitlines() if "warning" in line] == SENTENCES


async def test_sync_reports_rewound_streams_once_at_its_start() -> None:
    service = scripted_service()
    resumption = Resumption(rewound_streams=REWOUND, lost_inputs=LostInputs())
    service.messages = [Message(resumption=resumption), Message(eof=rewound())]
    outcome = await pipelines_of(service, "sync", "orders")
    assert [line for line in outcome.stderr.splitlines() if "warning" in line] == SENTENCES


async def test_raw_reports_rewound_streams_as_json() -> None:
    service = scripted_service()
    service.ends = [rewound()]
    outcome = await pipelines_of(service, "sync_batch", "orders", "--raw")
    printed = json.loads(outcome.lines[0])
    assert printed["rewound_streams"][0] == {
        "stream": "customers",
        "from_start": True,
        "reason": "its table is\nempty",
    }
    assert printed["lost_inputs"] == {"covered_by_reread": False}


async def test_lost_events_are_covered_by_reading_streams_again() -> None:
    service = scripted_service()
    eof = done()
    eof.lost_inputs.covered_by_reread = True
    service.ends = [eof]
    outcome = await pipelines_of(service, "sync_batch", "orders")
    assert "the streams are read from the start instead" in outcome.stderr


async def test_watch_reports_rewound_streams_once() -> None:
    service = scripted_service()
    pipeline = seen(contract.PIPELINE_STATUS_BACKFILL, records=7)
    pipeline.progress.streams["customers"].rewound_reason = "its table is empty"
    later = contract.Pipeline()
    later.CopyFrom(pipeline)
    later.progress.streams["customers"].record_count = 8
    service.watch = [pipeline, later, deleted()]
    outcome = await pipelines_of(service, "watch", "orders")
    assert outcome.lines == [
        "orders: backfill",
        "orders: customers was rewound: its table is empty",
    ]
