"""Rules for each field of the contract: limits of texts, lists and numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor

PACKAGE = "pipesync.v1."
# Characters of a text, unless another limit is given below.
MAX_TEXT = 1024
# Items of a list or map, unless another limit is given below.
MAX_ITEMS = 10_000
# Characters of a checkpoint of a source or destination.
MAX_CHECKPOINT = 1024 * 1024
# Streams of a catalog or a selection.
MAX_STREAMS = 1000

# No history reaches this count, and its sums over streams fit into 64 bits.
_MAX_COUNT = 10**14
# Output only: callers send these fields back unchanged, perhaps from another release.
_IGNORED = frozenset(
    f"{PACKAGE}Pipeline.{name}"
    for name in (
        "status",
        "status_message",
        "sync_state",
        "progress",
        "create_time",
        "update_time",
    )
)
# JSON whose size is limited by the check of its message.
_CHECKED_APART = frozenset(
    f"{PACKAGE}{name}" for name in ("Connector.config", "SourceInput.event", "Stream.json_schema")
)
# Texts that are checked elsewhere, or passed on unchanged.
_ANY_TEXT = frozenset(
    PACKAGE + name
    for name in (
        "SourceState.shared",
        "SourceState.StreamsEntry.value",
        "SyncState.destination",
        "StateCheckpoint.data",
        "StreamProgress.message",
        "StreamProgress.rewound_reason",
        "StreamStatus.Skipped.reason",
        "StreamStatus.Errored.error",
        "ConnectionStatus.message",
        "ConnectionStatus.notices",
        "UnreadableStream.reason",
        "Log.message",
        "WebhookDelivery.HeadersEntry.key",
        "WebhookDelivery.HeadersEntry.value",
        # Ids and tokens that are looked up: an unknown one is answered as not found.
        "Pipeline.id",
        "ListPipelinesRequest.page_token",
        "ListWebhookEventsRequest.page_token",
        "ReplayWebhookEventsRequest.event_ids",
        "ListRunsRequest.page_token",
        *(
            f"{verb}Request.pipeline_id"
            for verb in (
                "CheckPipeline",
                "DeletePipeline",
                "DiscoverSource",
                "GetPipeline",
                "ListRuns",
                "ListWebhookEvents",
                "PushWebhook",
                "ReplayWebhookEvents",
                "RetryRejectedRecords",
                "SetupPipeline",
                "SimulateWebhookSync",
                "SyncPipeline",
                "SyncPipelineBatch",
                "TeardownPipeline",
                "WatchPipeline",
            )
        ),
    )
)
_TEXT_LIMITS: Mapping[str, int] = {
    f"{PACKAGE}Connector.type": 100,
    f"{PACKAGE}Stream.name": 255,
    f"{PACKAGE}StreamSelection.name": 255,
    f"{PACKAGE}StreamSelection.fields": 255,
    f"{PACKAGE}SyncOptions.run_id": 255,
    f"{PACKAGE}SyncRun.run_id": 255,
    f"{PACKAGE}SyncPipelineRequest.run_id": 255,
    f"{PACKAGE}SyncPipelineBatchRequest.run_id": 255,
    f"{PACKAGE}CheckpointPosition.epoch": 255,
    f"{PACKAGE}Pipeline.etag": 255,
    f"{PACKAGE}DeletePipelineRequest.etag": 255,
    f"{PACKAGE}TeardownPipelineRequest.etag": 255,
    "google.protobuf.FieldMask.paths": 255,
}
# Texts whose size alone is checked.
_SIZE_LIMITS: Mapping[str, int] = {
    f"{PACKAGE}SourceState.shared": MAX_CHECKPOINT,
    f"{PACKAGE}SourceState.StreamsEntry.value": MAX_CHECKPOINT,
    f"{PACKAGE}SyncState.destination": MAX_CHECKPOINT,
    f"{PACKAGE}StateCheckpoint.data": MAX_CHECKPOINT,
}
_ITEM_LIMITS: Mapping[str, int] = {
    f"{PACKAGE}Catalog.streams": MAX_STREAMS,
    f"{PACKAGE}PipelineConfig.streams": MAX_STREAMS,
    f"{PACKAGE}SyncOverrides.streams": MAX_STREAMS,
    f"{PACKAGE}StreamSelection.fields": 1000,
    f"{PACKAGE}FieldPath.segments": 10,
    f"{PACKAGE}Stream.primary_key": 10,
    f"{PACKAGE}WebhookDelivery.headers": 200,
    f"{PACKAGE}ReplayWebhookEventsRequest.event_ids": 1000,
    **{f"{PACKAGE}Pipeline{verb}Request.inputs": 1000 for verb in ("Read", "Sync", "SyncBatch")},
    # Each takes a few bytes of a message, whose size is limited.
    f"{PACKAGE}RecordBatch.records": 10_000_000,
    "google.protobuf.FieldMask.paths": 100,
}
# Messages whose integers are counts, never negative.
_COUNT_MESSAGES = frozenset(
    PACKAGE + name
    for name in ("Progress", "Progress.Derived", "StreamProgress", "RowCounts", "RowsWritten")
)
_MAX_VALUES: Mapping[str, int] = {
    f"{PACKAGE}SyncRun.empty_request_count": 100,
    f"{PACKAGE}CheckpointPosition.number": 2**62,
}
_INTEGERS = frozenset({FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64})
_FLOATS = frozenset({FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE})


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRule:
    """Rules for one field of the contract.

    Attributes:
        is_map: Whether it is a map.
        is_message: Whether its values are messages.
        is_ignored: Whether it is skipped, with everything in it.
        is_checked: Whether its values are checked.
        max_items: Items of a list or map.
        max_text: Characters of a one-line text.
        max_size: Characters of a text whose size alone is checked; None for other fields.
        values: Values of its enum; None for other fields.
        type_name: Name of its enum.
        max_value: Largest value of an integer that must not be negative; None for other fields.
    """

    is_map: bool
    is_message: bool
    is_ignored: bool
    is_checked: bool
    max_items: int
    max_text: int
    max_size: int | None
    values: frozenset[int] | None
    type_name: str
    max_value: int | None


@cache
def rule_of(descriptor: FieldDescriptor) -> FieldRule:
    """Return the rule for a field."""
    name = descriptor.full_name
    message = descriptor.message_type
    is_message = message is not None
    is_map = message is not None and bool(message.GetOptions().map_entry)
    enum = descriptor.enum_type
    max_value = _MAX_VALUES.get(name)
    is_integer = descriptor.cpp_type in _INTEGERS
    if is_integer and _containing(descriptor) in _COUNT_MESSAGES:
        max_value = _MAX_COUNT
    is_text = descriptor.type == FieldDescriptor.TYPE_STRING and name not in _ANY_TEXT
    is_checked_apart = name in _CHECKED_APART
    max_size = _SIZE_LIMITS.get(name)
    return FieldRule(
        is_map=is_map,
        is_message=is_message,
        is_ignored=name in _IGNORED or is_checked_apart,
        is_checked=is_message
        or is_text
        or enum is not None
        or max_value is not None
        or max_size is not None
        or descriptor.cpp_type in _FLOATS,
        max_items=_ITEM_LIMITS.get(name, MAX_ITEMS),
        max_text=_TEXT_LIMITS.get(name, MAX_TEXT),
        max_size=max_size,
        values=frozenset(value.number for value in enum.values) if enum is not None else None,
        type_name=enum.name if enum is not None else "",
        max_value=max_value,
    )


def rules_of_map(descriptor: FieldDescriptor) -> tuple[FieldRule, FieldRule]:
    """Return the rules of a map's keys and of its values."""
    entry = descriptor.message_type
    assert entry is not None  # noqa: S101 - a map is a list of messages
    return rule_of(entry.fields_by_name["key"]), rule_of(entry.fields_by_name["value"])


def _containing(descriptor: FieldDescriptor) -> str:
    containing: Descriptor | None = descriptor.containing_type
    return containing.full_name if containing is not None else ""
