UPDATE task SET state = CASE waiting WHEN 0 THEN 1 ELSE 0 END, failures = 0, losses = 0, error = NULL,
                changed = ?2
WHERE job = ?1 AND state IN (5, 6)
