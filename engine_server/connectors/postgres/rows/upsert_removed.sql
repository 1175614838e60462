,
removed AS (
    DELETE FROM {table} AS stored
    USING newest
    WHERE newest.deleted
        AND {stored_is_newest}
        AND (newest.updated_at < stored._updated_at) IS NOT TRUE
    RETURNING 1
)
