DELETE FROM output WHERE task = ?1
