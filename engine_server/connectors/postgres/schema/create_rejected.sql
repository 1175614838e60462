CREATE TABLE {rejected} (
    "stream" text,
    -- SHA-256 of the key and the account, or of the record where its key cannot be read: a key may be too long for an index.
    "digest" bytea,
    "key" text[],
    "_account_id" text,
    "_updated_at" timestamptz,
    "deleted" boolean NOT NULL,
    -- As the source sent it: it may not be JSON.
    "record" bytea NOT NULL,
    "sqlstate" text NOT NULL,
    "reason" text NOT NULL,
    "first_time" timestamptz NOT NULL,
    "last_time" timestamptz NOT NULL,
    "attempts" integer NOT NULL,
    PRIMARY KEY ("stream", "digest")
)
