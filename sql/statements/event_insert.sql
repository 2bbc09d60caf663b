INSERT INTO event(seq, time_ms, job, task, kind, text) VALUES(?1, ?2, ?3, ?4, ?5, ?6)
