-- Clients that have pins older than ?1.
SELECT DISTINCT boot FROM pin WHERE task = 0 AND expires_ms < ?1 LIMIT ?2
