SELECT state, count(*), max(step_end) FROM task WHERE job = ?1 GROUP BY state
