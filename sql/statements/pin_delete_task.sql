DELETE FROM pin WHERE task = ?1 AND task <> 0
