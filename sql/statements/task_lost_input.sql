-- Tasks that made the lost artifact ?1 and whose output is still wanted: the job is not over and some
-- task that reads it is not done.
SELECT DISTINCT t.id FROM output AS o JOIN task AS t ON t.id = o.task JOIN job AS j ON j.id = t.job
JOIN task_input AS i ON i.source = t.id AND i.output = o.name JOIN task AS c ON c.id = i.task
WHERE o.hash = ?1 AND t.state = 4 AND j.state <= 2 AND c.state <> 4
