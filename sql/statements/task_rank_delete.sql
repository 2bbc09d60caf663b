DELETE FROM task_rank WHERE task = ?1
