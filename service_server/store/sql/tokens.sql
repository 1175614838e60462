-- name: insert
-- Returns no row if another token that is not revoked has the name or the certificate.
INSERT INTO pipesync.tokens (name, hash, certificate, scope, prefix, expire_time)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
RETURNING true;

-- name: list
SELECT id, name, hash, certificate, scope, prefix, create_time, expire_time, revoke_time, last_use_time
FROM pipesync.tokens
ORDER BY id;

-- name: list_valid
SELECT id, name, hash, certificate, scope, prefix, create_time, expire_time, revoke_time, last_use_time
FROM pipesync.tokens
WHERE revoke_time IS NULL AND (expire_time IS NULL OR expire_time > now());

-- name: any
SELECT true FROM pipesync.tokens LIMIT 1;

-- name: revoke
UPDATE pipesync.tokens
SET revoke_time = now()
WHERE name = $1 AND revoke_time IS NULL
RETURNING true;

-- name: record_uses
UPDATE pipesync.tokens AS token
SET last_use_time = used.use_time
FROM unnest($1::bigint[], $2::timestamptz[]) AS used (id, use_time)
WHERE token.id = used.id AND (token.last_use_time IS NULL OR token.last_use_time < used.use_time);
