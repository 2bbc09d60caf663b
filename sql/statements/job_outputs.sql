SELECT output.name, task.id, task.round, output.hash, output.size, artifact.is_folder, task.step_end,
       task.kind, task.shard
FROM task JOIN output ON output.task = task.id LEFT JOIN artifact ON artifact.hash = output.hash
WHERE task.job = ?1 AND task.state = 4 ORDER BY task.id DESC, output.name LIMIT ?2
