-- A deletion was merged with the row as it was when the statement began.
CASE WHEN {is_deleted_excluded} AND stored._raw_data IS DISTINCT FROM (
    SELECT seen._raw_data FROM {table} AS seen WHERE {seen_is_excluded} LIMIT 1
)
THEN stored._raw_data || (
    -- Not from newest: Postgres would copy a result that is used twice.
    SELECT incoming.raw_data
    FROM incoming
    WHERE {incoming_is_excluded}
    ORDER BY incoming.updated_at DESC, incoming.position DESC
    LIMIT 1
)
ELSE excluded._raw_data
END
