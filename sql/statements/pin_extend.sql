UPDATE pin SET expires_ms = ?2 WHERE boot = ?1 AND boot <> 0
