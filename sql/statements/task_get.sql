SELECT id, job, kind, round, shard, shards, world, step_end, state, waiting, attempt, failures, losses,
       worker, params
FROM task WHERE id = ?1
