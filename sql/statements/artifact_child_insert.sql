INSERT OR IGNORE INTO artifact_child(parent, child) VALUES(?1, ?2)
