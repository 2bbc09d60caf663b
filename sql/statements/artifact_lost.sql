UPDATE artifact SET state = 0 WHERE hash = ?1
