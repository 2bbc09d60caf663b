UPDATE task SET state = ?2, attempt = ?3, failures = ?4, losses = ?5, worker = ?6, changed = ?7,
                error = ?8, result = ?9
WHERE id = ?1
