-- Bearer tokens that callers may show, besides those of --token-hashes. Of a token its hash alone is kept.
CREATE TABLE pipesync.tokens (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    -- SHA-256 of its UTF-8 bytes, in hexadecimal.
    hash text COLLATE "C" NOT NULL UNIQUE,
    -- read, sync or admin.
    scope text NOT NULL,
    -- What the ids of its pipelines begin with; empty for all pipelines.
    prefix text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT now(),
    -- Null for never.
    expire_time timestamptz,
    revoke_time timestamptz,
    -- To about a minute; null when it was never used.
    last_use_time timestamptz
);

-- A revoked token leaves its name to another one.
CREATE UNIQUE INDEX tokens_name ON pipesync.tokens (name) WHERE revoke_time IS NULL;
