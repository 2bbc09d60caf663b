INSERT INTO artifact(hash, size, state, is_folder, touched_ms) VALUES(?1, ?2, 1, ?3, ?4)
ON CONFLICT(hash) DO UPDATE SET size = ?2, state = 1, is_folder = ?3, touched_ms = ?4
