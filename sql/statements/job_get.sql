SELECT id, name, recipe, state, priority, workers, retries, time_limit_s, any_class, class, tasks,
       steps, rounds, step, submitted_ms, started_ms, ended_ms, running_ms, used_ms, error,
       constraints, done, failed
FROM job WHERE id = ?1
