,
-- A record that was rejected is outdated by one that is as new; not a deletion, which is the last of its second.
cleared AS (
    DELETE FROM {rejected} AS entry
    USING newest
    WHERE entry.stream = {stream}
        AND entry.key = {newest_key}
        AND (newest.updated_at < entry._updated_at) IS NOT TRUE
        AND NOT (entry.deleted AND NOT newest.deleted AND (newest.updated_at = entry._updated_at) IS TRUE)
)
