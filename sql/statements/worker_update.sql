UPDATE worker SET boot = ?2, seen_ms = ?3, job = ?4, place = ?5, task = ?6, attempt = ?7, rank = ?8
WHERE id = ?1
