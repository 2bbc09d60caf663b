INSERT INTO job(key, name, recipe, spec, constraints, state, priority, workers, retries, time_limit_s,
                any_class, tasks, steps, rounds, step, first_event, submitted_ms, used_ms)
VALUES(?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, 0)
