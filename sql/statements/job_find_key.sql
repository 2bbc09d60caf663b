SELECT id, tasks FROM job WHERE key = ?1
