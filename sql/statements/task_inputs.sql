-- Inputs of a rank; those of other tasks as they are published now.
SELECT i.name, coalesce(i.hash, o.hash), a.size
FROM task_input AS i
LEFT JOIN output AS o ON o.task = i.source AND o.name = i.output
LEFT JOIN artifact AS a ON a.hash = coalesce(i.hash, o.hash) AND a.state = 1
WHERE i.task = ?1 AND i.rank IN (-1, ?2) ORDER BY i.position
