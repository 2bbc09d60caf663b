UPDATE task SET waiting = ?2, state = ?3 WHERE id = ?1
