-- Pools of a round in the order of their places: those truncate leaves (one a shard), or those a fused
-- train leaves (pool.0, pool.1, ... of one task).
SELECT output.name, output.hash, task.shard
FROM task JOIN output ON output.task = task.id
WHERE task.job = ?1 AND task.round = ?2 AND task.state = 4
      AND ((task.kind = 'truncate' AND output.name = 'pool')
           OR (task.kind = 'train' AND output.name GLOB 'pool.*'))
ORDER BY task.shard, output.rank
