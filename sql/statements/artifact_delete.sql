DELETE FROM artifact WHERE hash = ?1
