UPDATE artifact SET state = 2 WHERE hash = ?1
