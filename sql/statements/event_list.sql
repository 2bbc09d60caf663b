SELECT seq, time_ms, job, task, kind, text FROM event
WHERE seq > ?1 AND (?2 = 0 OR job = ?2) ORDER BY seq LIMIT ?3
