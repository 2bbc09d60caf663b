INSERT OR IGNORE INTO artifact(hash, size, state, is_folder, touched_ms) VALUES(?1, ?2, 0, 0, ?3)
