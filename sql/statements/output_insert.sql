INSERT INTO output(task, name, rank, hash, size) VALUES(?1, ?2, ?3, ?4, ?5)
ON CONFLICT(task, name) DO UPDATE SET rank = ?3, hash = ?4, size = ?5
