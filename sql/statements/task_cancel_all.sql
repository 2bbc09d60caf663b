UPDATE task SET state = 6, changed = ?2 WHERE job = ?1 AND state IN (0, 1, 2)
