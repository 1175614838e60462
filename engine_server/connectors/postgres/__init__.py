"""The Postgres destination: one table a stream, kept by batched upserts."""
