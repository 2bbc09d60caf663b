-- ?1 is to be done again: what has not used it yet waits for it.
UPDATE task SET waiting = waiting + 1, state = CASE WHEN state IN (1, 2) THEN 0 ELSE state END
WHERE id IN (SELECT task FROM task_dep WHERE needs = ?1)
