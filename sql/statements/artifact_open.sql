INSERT INTO artifact(hash, size, state, is_folder, touched_ms) VALUES(?1, ?2, 0, 0, ?3)
ON CONFLICT(hash) DO UPDATE SET state = 0 WHERE state = 2
