-- name: move
-- $2 to $4: the expected series and position. $10: number after which all events have to be kept; null for any.
INSERT INTO pipesync.inputs AS kept
    (pipeline_id, series, epoch, number, replayable_epoch, replayable_number)
SELECT $1::text, $5::bigint, $6::text, $7::bigint, $8::text, $9::bigint
WHERE $10::bigint IS NULL OR EXISTS (SELECT FROM pipesync.inputs WHERE pipeline_id = $1)
ON CONFLICT (pipeline_id) DO UPDATE
SET series = excluded.series,
    epoch = excluded.epoch,
    number = excluded.number,
    replayable_epoch = CASE
        WHEN excluded.series = kept.series THEN coalesce(excluded.replayable_epoch, kept.replayable_epoch)
        ELSE excluded.replayable_epoch
    END,
    replayable_number = CASE
        WHEN excluded.series = kept.series THEN coalesce(excluded.replayable_number, kept.replayable_number)
        ELSE excluded.replayable_number
    END
WHERE kept.series = $2
    AND (kept.epoch, kept.number) IS NOT DISTINCT FROM ($3::text, $4::bigint)
    AND ($10::bigint IS NULL OR kept.replayable_number <= $10)
RETURNING true;

-- name: forget
INSERT INTO pipesync.inputs AS kept (pipeline_id)
SELECT id FROM pipesync.pipelines WHERE id = $1
ON CONFLICT (pipeline_id) DO UPDATE
SET series = kept.series + 1,
    epoch = NULL,
    number = NULL,
    replayable_epoch = NULL,
    replayable_number = NULL
RETURNING series;
