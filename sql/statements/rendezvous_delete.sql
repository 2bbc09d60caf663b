DELETE FROM rendezvous WHERE task = ?1
