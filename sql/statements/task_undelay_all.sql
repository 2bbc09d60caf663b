UPDATE task SET state = 1 WHERE job = ?1 AND state = 2
