UPDATE job SET state = ?2, class = ?3, step = ?4, started_ms = ?5, ended_ms = ?6, running_ms = ?7,
               used_ms = ?8, error = ?9, done = ?10, failed = ?11
WHERE id = ?1
