SELECT value FROM rendezvous WHERE task = ?1 AND attempt = ?2 AND key = ?3
