DELETE FROM pin WHERE task = 0 AND expires_ms < ?1
