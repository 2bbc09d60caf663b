INSERT OR IGNORE INTO task_rank(task, rank) VALUES(?1, ?2)
