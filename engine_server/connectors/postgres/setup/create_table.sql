CREATE TABLE {table} (
    {key_columns},
    "_raw_data" jsonb NOT NULL,
    {account_id}
    "_updated_at" timestamptz,
    "_last_synced_at" timestamptz NOT NULL,
    {generated_columns}
    PRIMARY KEY ({key})
)
