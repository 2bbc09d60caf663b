SELECT count(*) FROM task_rank WHERE task = ?1
