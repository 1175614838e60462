CREATE TABLE {tombstones} (
    "table_name" text,
    "key" text[],
    "_account_id" text,
    "_updated_at" timestamptz NOT NULL,
    "_noted_at" timestamptz NOT NULL,
    PRIMARY KEY ("table_name", "key")
)
