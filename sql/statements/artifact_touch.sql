UPDATE artifact SET touched_ms = ?2 WHERE hash = ?1 AND touched_ms < ?2
