-- Clients' certificates, which callers may be known by as by tokens: such a row has a name of the certificate in place of
-- the hash of a token.
ALTER TABLE pipesync.tokens
    ALTER COLUMN hash DROP NOT NULL,
    -- As --client-certificates spells it, e.g. URI:spiffe://example.com/team-a.
    ADD COLUMN certificate text COLLATE "C",
    ADD CONSTRAINT tokens_hash_or_certificate CHECK ((hash IS NULL) <> (certificate IS NULL));

-- One certificate is one caller; a revoked row leaves it to another.
CREATE UNIQUE INDEX tokens_certificate ON pipesync.tokens (certificate) WHERE revoke_time IS NULL;
