-- The newest output of a name; ?3 < 0: of any step.
SELECT output.hash, output.size, artifact.is_folder, task.step_end, task.round, task.id
FROM task JOIN output ON output.task = task.id JOIN artifact ON artifact.hash = output.hash
WHERE task.job = ?1 AND task.state = 4 AND output.name = ?2 AND artifact.state = 1
      AND (?3 < 0 OR task.step_end = ?3)
ORDER BY task.id DESC LIMIT 1
