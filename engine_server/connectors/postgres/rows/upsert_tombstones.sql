,
-- Tombstones of deleted rows: older records that arrive later are ignored.
tombstoned AS (
    INSERT INTO {tombstones} AS known (table_name, key, _account_id, _updated_at, _noted_at)
    SELECT {table_name}, {newest_key}, account_id, updated_at, now()
    FROM newest
    WHERE deleted AND updated_at IS NOT NULL
    ON CONFLICT (table_name, key) DO UPDATE SET
        _updated_at = excluded._updated_at,
        _noted_at = excluded._noted_at
    WHERE known._updated_at < excluded._updated_at
)
