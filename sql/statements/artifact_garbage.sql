-- Untouched since ?1 and referred to by nothing.
SELECT hash, size, state FROM artifact
WHERE refs = 0 AND touched_ms < ?1 AND state <> 2 LIMIT ?2
