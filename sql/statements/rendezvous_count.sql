SELECT count(*) FROM rendezvous WHERE task = ?1 AND attempt = ?2
