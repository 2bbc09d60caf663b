SELECT task.step_end, task.id, output.hash
FROM task JOIN output ON output.task = task.id
WHERE task.job = ?1 AND task.state = 4 AND task.step_end > 0 AND output.name = 'checkpoint'
ORDER BY task.id DESC LIMIT ?2
