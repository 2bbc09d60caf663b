DELETE FROM pin WHERE task = ?1
