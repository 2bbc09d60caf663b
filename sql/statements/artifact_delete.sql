-- Unless it has come back, or somebody has begun to bring it.
DELETE FROM artifact WHERE hash = ?1 AND state <> 1 AND refs = 0
