-- ?1 is done: what waits for it waits for one less, and is ready when that was the last.
UPDATE task SET waiting = waiting - 1,
                state = CASE WHEN waiting = 1 AND state = 0 THEN 1 ELSE state END
WHERE id IN (SELECT task FROM task_dep WHERE needs = ?1)
RETURNING state = 1 AND waiting = 0
