"""The sizes that both ends of the wire agree on."""

# A record batch, or a whole ending state.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
# Error details travel in trailers; gRPC's own default of 8 KiB is soon full of field violations.
MAX_METADATA_BYTES = 64 * 1024

SIZE_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
)
