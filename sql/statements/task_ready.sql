SELECT id, job, kind, round, shard, shards, world, step_end, state, waiting, attempt, failures, losses,
       worker, params
FROM task WHERE job = ?1 AND state = 1 ORDER BY id LIMIT ?2
