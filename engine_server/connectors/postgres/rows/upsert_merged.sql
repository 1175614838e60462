-- The new content of the row. The record of a deletion has few other fields: keep the known ones.
CASE WHEN newest.deleted THEN
    coalesce(
        (
            SELECT incoming.raw_data
            FROM incoming
            WHERE {incoming_is_newest}
                AND NOT incoming.deleted
                AND (incoming.updated_at < stored._updated_at) IS NOT TRUE
            ORDER BY incoming.updated_at DESC, incoming.position DESC
            LIMIT 1
        ),
        stored._raw_data,
        jsonb_build_object()
    )
    || newest.raw_data
ELSE newest.raw_data
END
