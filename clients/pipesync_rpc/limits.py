"""Size limits that clients and servers share."""

# Fits a record batch, or a whole ending state.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
# Error details travel in trailers; field violations soon exceed gRPC's default of 8 KiB.
MAX_METADATA_BYTES = 64 * 1024


def size_options(*, max_received: int = MAX_MESSAGE_BYTES) -> tuple[tuple[str, int], ...]:
    """Return gRPC's options for these sizes; ``max_received`` limits one message, in bytes."""
    return (
        ("grpc.max_receive_message_length", max_received),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
    )


SIZE_OPTIONS = size_options()
