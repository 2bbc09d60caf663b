INSERT INTO pin(hash, task, boot, attempt, expires_ms) VALUES(?1, ?2, ?3, ?4, ?5)
ON CONFLICT DO UPDATE SET attempt = ?4, expires_ms = ?5
