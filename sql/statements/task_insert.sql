INSERT INTO task(job, kind, round, shard, shards, world, step_end, params, state, waiting)
VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
