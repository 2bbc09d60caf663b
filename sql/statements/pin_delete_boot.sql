DELETE FROM pin WHERE boot = ?1 AND boot <> 0
