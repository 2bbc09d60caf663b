-- What changed last comes first.
SELECT task.id, task.kind, task.round, task.shard, task.state, task.attempt, task.failures, worker.name,
       task.error
FROM task LEFT JOIN worker ON worker.id = task.worker
WHERE task.job = ?1 ORDER BY task.changed DESC, task.id LIMIT ?2
